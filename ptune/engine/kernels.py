"""Own operators for attention, adapters and the products of int8 and int4 graphs, where the optional package ptune-kernels is installed.

A bundle holds the plain graph, which was proved. As it is opened, its products are replaced in memory by operators that give
the same bits, and its weights are read from the same file. Attention is replaced by an operator that gives the same numbers up
to the rounding of float32. What adapters add is computed in an order of its own, which company cannot change as it changes the
plain graph's (`kernels/src/low_rank.h`). Before that the package is compared with the plain graph's operators on this machine;
products that are not the same to the bit are not used, nor is attention that is further off than rounding. On processors without
AVX-512, whose onnxruntime has other bits than the one that proved most bundles, own products have the bits of those with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ptune.engine.kept_kernels import Kept, kept
from ptune.formats.whole_write import sha256_of

PACKAGE = "ptune_kernels"
INTERFACE = 3  # of the package; it changes with the bits of what computes in an order of its own
INT8, INT4, ATTENTION = (
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "GroupQueryAttention",
)  # the operators that are replaced: by the profile that has them, and in every one
ADAPTERS = "lora_mask"  # likewise of all profiles: an input of what adapters add
UNITS = "units"  # gated units, which stand between products
BESIDE = {ADAPTERS: "adapters' updates", ATTENTION: "attention", UNITS: "gated units"}
OWN_ATTENTION = "ptune.attention"  # metadata of a graph whose attention was replaced
FACTORS = (
    "lora_factors"  # the input that has them, and the entry of a graph's metadata that names them in order
)
PANEL = "lora_panel"  # the entry with the columns in a panel of B
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

_log = logging.getLogger(__name__)

WITHOUT_AVX512 = (
    "avx2",
    "avx_vnni",
)  # names of what computes where onnxruntime's products may have other bits


@dataclass(frozen=True)
class Kernels:
    """The package's operators."""

    name: str  # of what this processor computes with
    library: Path
    rewrite: Callable[..., tuple[bytes, int]]  # of a path
    reordered: tuple[str, ...] = ()  # what they compute in another order than the plain graph
    merge_page: Callable[[], bool] = (
        bool  # moves some packed weights into a large page; False where all lie in such
    )

    @property
    def other_bits(self) -> bool:
        """Whether its products may have other bits than onnxruntime's on this processor."""
        return self.name in WITHOUT_AVX512

    def exact(self) -> Kernels:
        """Those that give the base's bits as the plain graph does."""
        rest = tuple(what for what in self.reordered if what != "attention")
        return replace(self, rewrite=partial(self.rewrite, attends=False), reordered=rest)

    def attends(self, path: Path) -> bool:
        """Whether they replace the attention of the graph at `path`, which they do in all layers or in none."""
        try:
            return "attention" in self.reordered and OWN_ATTENTION.encode() in self.rewrite(path)[0]
        except Exception:  # `prepare` says so
            return False

    def prepare(self, path: Path, options: Any) -> Path | bytes:
        """What onnxruntime loads in place of the graph at `path`; session options are extended accordingly."""
        try:
            graph, rewritten = self.rewrite(path)
        except Exception as error:  # a graph that the package cannot read is one that onnxruntime may load
            _log.warning("%s is used as it is: ptune-kernels cannot rewrite it: %s", path, error)
            return path
        if not rewritten:
            return path
        options.register_custom_ops_library(str(self.library))
        options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent))
        return graph


def kernels_for(path: Path, *, exact: bool = False) -> Kernels | None:
    """The operators where the graph at `path` has such nodes; other graphs need neither the package nor its check.

    exact: only those that give the same bits as the plain graph, which attention does not.
    """
    graph = path.read_bytes() if path.is_file() else b""
    wanted = (INT8, INT4, ADAPTERS) if exact else (INT8, INT4, ATTENTION, ADAPTERS)
    there = [product for product in wanted if product.encode() in graph]
    there = there[:1] if there and there[0] in (INT8, INT4) else there
    found = next((one for product in there if (one := kernels(product)) is not None), None)
    return found.exact() if found is not None and (exact or not found.attends(path)) else found


@cache
def kernels(product: str = INT8) -> Kernels | None:
    """The operators in place of `product`; None where there are none.

    Where the package is there and cannot be used, a line in the log says why.
    """
    if find_spec(PACKAGE) is None:
        return None
    try:
        package = import_module(PACKAGE)
        wrong = _found_wrong(package, product)
        why = wrong.pop(product)
    except Exception as error:  # it is optional, whatever is wrong with it
        why = f"it cannot be loaded: {error}"
    if why is not None:
        _log.warning("ptune-kernels is installed, and the plain graph is used: %s", why)
        return None
    for part, found in wrong.items():
        if found is not None:
            _log.warning("%s: the plain graph's are used: %s", BESIDE[part], found)
    right = {part for part, found in [*wrong.items(), (product, None)] if found is None}
    adapters, attends = ADAPTERS in right, ATTENTION in right
    how: dict[str, Any] = {
        "product": product,
        "units": UNITS in right,
        "adapters": adapters,
        "attends": attends,
    }
    reordered = {"attention": attends, "adapters": adapters}
    return Kernels(
        package.kernel(),
        package.LIBRARY,
        partial(rewritten, partial(_rewrite, package.LIBRARY.parent), **how),
        tuple(what for what, there in reordered.items() if there),
        package.merge_page,
    )


def _rewrite(package: Path, path: Path, **how: Any) -> tuple[bytes, int]:
    """The graph at `path` with own operators, and their number, as an earlier process kept it or anew."""

    def make() -> Kept:
        graph, count = import_module(f"{PACKAGE}.rewrite").with_own_products(path, **how)
        return Kept({"operators": count}, graph)

    on = {"graph": sha256_of(path), "at": str(path.resolve()), "files": _stamps(path), **how}
    made = kept(package, on, make)
    return made.graph, made.facts["operators"]


def rewritten(rewrite: Callable[..., tuple[bytes, int]], path: Path, **how: Any) -> tuple[bytes, int]:
    """What `rewrite` makes of the graph at `path`, once as long as its files are the same.

    While a bundle is proved its graphs are opened dozens of times, and rewriting one takes longer than loading it.
    """
    return _rewritten(rewrite, path, _stamps(path), **how)


def _stamps(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Name, time, bytes and inode of a graph and of its weights."""
    files = [path, *sorted(path.parent.glob("*.data"))]
    return tuple((file.name, (at := file.stat()).st_mtime_ns, at.st_size, at.st_ino) for file in files)


@lru_cache(maxsize=16)  # of a bundle: its graphs, exactly rewritten and not
def _rewritten(
    rewrite: Callable[..., tuple[bytes, int]], path: Path, _: object, **how: Any
) -> tuple[bytes, int]:
    return rewrite(path, **how)


def _found_wrong(package: Any, product: str) -> dict[str, str | None]:
    """Why the package is not used in place of `product`, and why not for what is beside it; None for what is right."""
    if package.INTERFACE != INTERFACE:
        return {product: f"it has interface {package.INTERFACE}, and this ptune needs {INTERFACE}"}
    if package.kernel() == package.PLAIN:
        return {product: "it has no kernel for this processor"}

    def compare() -> Kept:
        check = import_module(f"{PACKAGE}.check")
        wrong = {product: check.differs(product)}
        if wrong[product] is None and product != ADAPTERS:
            wrong |= {part: check.differs(part) for part in (ADAPTERS, ATTENTION) if part != product}
        if wrong[product] is None and product in (INT8, INT4):
            same = check.units_are_the_same()
            wrong[UNITS] = None if same else "they give other bits than the plain graph's"
        return Kept(wrong)

    def all_right(found: Kept) -> bool:
        return not any(found.facts.values())

    return kept(package.LIBRARY.parent, [package.kernel(), product], compare, keeps=all_right).facts
