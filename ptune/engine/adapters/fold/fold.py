"""Adapters of other PEFT types, rewritten as plain LoRA adapters that compute the same, or nearly so where the user says how near.

This happens once, when an adapter is added. The bundle then holds a LoRA adapter in PEFT's format, and the adapter's own two files
in `original/` beside it, which proofs read.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptune.engine.adapters.fold.gains import PEFT_GROUP
from ptune.engine.adapters.fold.layer import Array, Base, Factor, Layer, LayerError, Update
from ptune.engine.adapters.fold.table import METHODS, Method, method_of
from ptune.engine.adapters.fold.truncate import cut
from ptune.engine.adapters.misfits import Misfits
from ptune.engine.adapters.peft_config import GAINS, MERGE, PEFT_PREFIX, REFUSED, parsed
from ptune.engine.adapters.safetensors import write_tensors
from ptune.engine.adapters.source import CONFIG, WEIGHTS, Source
from ptune.errors import AdapterError
from ptune.formats.bundle import Folded
from ptune.formats.signature import Ends, Socket
from ptune.formats.whole_write import sha256_of, write_json

ORIGINAL = "original"  # beside the LoRA adapter: the files that it was made of
LEFT_OUT = ("*.bin", "*.pt", "*.pth", "*.pkl", ".*")  # of an adapter's folder: pickles, and what is hidden
CHOOSE_RANK = "choose the rank to serve it at, at a loss that is measured: ptune add --rank N"
_KEPT = ("task_type", "base_model_name_or_path", "revision", "peft_version", "fan_in_fan_out", "bias")


@dataclass(frozen=True)
class Limits:
    """rank: that updates are cut to, if they have more; None: only exact pairs. most_bytes: of all pairs together."""

    rank: int | None = None
    most_bytes: int | None = None


@contextmanager
def as_pairs(
    adapter: Path,
    sockets: Mapping[str, Socket],
    base: Base | None = None,
    limits: Limits = Limits(),
    ends: Ends | None = None,
) -> Iterator[tuple[Path, Folded | None]]:
    """Yields a folder with the adapter as LoRA, and what it was before: the folder itself and None where it is LoRA already.

    sockets: the layers that take adapters, by their names in the transformers model. base: None: the base's weights are not at
    hand. ends: what else the bundle has sockets for. Raises: AdapterError that lists everything that cannot be folded.
    """
    source = Source.folder(adapter)
    folding = _folding(source, sockets, base, limits, ends)
    if folding is None:
        yield adapter, None
        return
    config, tensors = folding.pairs()
    with tempfile.TemporaryDirectory(prefix="ptune-fold-") as place:
        stage = Path(place) / adapter.name
        shutil.copytree(adapter, stage, ignore=shutil.ignore_patterns(*LEFT_OUT, ORIGINAL))
        (stage / ORIGINAL).mkdir()
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(adapter / file, stage / ORIGINAL / file)
        write_json(stage / CONFIG, config)
        write_tensors(stage / WEIGHTS, tensors)
        try:
            yield stage, folding.record(sha256_of(adapter / WEIGHTS))
        except AdapterError as error:
            raise AdapterError(str(error).replace(str(stage), str(adapter))) from None


def folded(source: Source, sockets: Mapping[str, Socket], ends: Ends | None) -> Source:
    """An adapter as LoRA, without the base's weights and at its own rank: itself where it is LoRA already. Raises: AdapterError."""
    folding = _folding(source, sockets, None, Limits(), ends)
    if folding is None:
        return source
    config, tensors = folding.pairs()
    return replace(source, config=config, read=lambda: tensors)


def _folding(
    source: Source, sockets: Mapping[str, Socket], base: Base | None, limits: Limits, ends: Ends | None
) -> _Folding | None:
    name, method = method_of(source.config)
    if method is None:
        _require_known(source)
        return None
    _require_sockets(source, name, method, ends)
    return _Folding(source, name, method, sockets, base, limits)


def _require_sockets(source: Source, name: str, method: Method, ends: Ends | None) -> None:
    """Raises: AdapterError where a bundle has no sockets for what a method's layers become."""
    turns = method.socket == "turns"
    if method.socket == "pair" or (ends is not None and (ends.has_turns if turns else ends.has_gains)):
        group = source.config.get("group_size") or PEFT_GROUP
        if turns and ends is not None and group != ends.turn_group:
            raise AdapterError(
                f"{source.place} holds an adapter of {name} with group_size {group!r}, and this bundle has sockets for"
                f" {ends.turn_group}: export its run itself, or {MERGE}"
            )
        return
    raise AdapterError(
        f"{source.place} holds an adapter of {name}, which this bundle has no sockets for: {GAINS}"
    )


def own_files(folder: Path, folded: Folded | None) -> Path:
    """Where the files are that peft reads as the adapter was trained: the folder itself, unless it was folded."""
    return folder if folded is None else folder / ORIGINAL


def _require_known(source: Source) -> None:
    kind, known = source.config.get("peft_type"), ", ".join(METHODS)
    if kind != "LORA":
        raise AdapterError(
            f"{source.place} holds an adapter of peft_type {kind!r}; served are LORA and, folded, {known}; {MERGE}"
        )


class _Folding:
    """One adapter on its way to pairs."""

    def __init__(
        self,
        source: Source,
        name: str,
        method: Method,
        sockets: Mapping[str, Socket],
        base: Base | None,
        limits: Limits,
    ) -> None:
        self._source, self._name, self._method = source, name, method
        self._sockets, self._base, self._limits = sockets, base, limits
        self._config = parsed(method.config, source)
        scaled = f"lora_bias is set: its biases have a scale of their own; {MERGE}"
        self._misfits = Misfits([scaled] if source.config.get("lora_bias") else [])
        self._bytes = 0
        self._lost: dict[str, tuple[float, float]] = {}  # squared norms of layers that were cut

    def pairs(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """The LoRA adapter's configuration and tensors."""
        if self._method.needs_base and self._base is None:
            raise AdapterError(
                f"{self._source.place} holds an adapter of {self._name}, which is folded with the base's weights: add it with"
                " `ptune add`, which reads them"
            )
        layers, rest = self._parted()
        updates = {
            module: update
            for module in layers
            if (update := self._update(module, layers[module])) is not None
        }
        self._check_targets(layers)
        if not updates and not self._misfits:
            self._misfits.add(f"it holds no layers of {self._name}", WEIGHTS)
        self._misfits.raise_for(self._source.place)
        pairs = {module: (one.a, one.b) for module, one in updates.items() if one.rank and one.b is not None}
        tensors = {f"{module}.lora_A.weight": a for module, (a, _) in pairs.items()}
        tensors |= {f"{module}.lora_B.weight": b for module, (_, b) in pairs.items()}
        for module, update in updates.items():
            tensors |= {f"{module}.{kind}": gain for kind, gain in update.gains.items()}
        named = {f"{PEFT_PREFIX}{name}": np.ascontiguousarray(array) for name, array in tensors.items()}
        whole = {**rest, **named}  # a file has all of them in float32
        return self._lora_config(pairs), {
            name: np.asarray(array, np.float32) for name, array in whole.items()
        }

    def record(self, sha256: str) -> Folded:
        """What the adapter was, and what folding lost. sha256: of its weights' file."""
        errors = {module: _share(*norms) for module, norms in self._lost.items()}
        sums = [sum(values) for values in zip(*self._lost.values(), strict=True)]
        return Folded(
            method=self._name,
            sha256=sha256,
            rank=self._limits.rank if errors else None,
            error=_share(*sums) if errors else None,
            errors=errors,
        )

    def _parted(self) -> tuple[dict[str, dict[str, Array]], dict[str, Array]]:
        """Tensors by layer and the ends of their names; those that all layers share, under ""; and the rest."""
        layers: dict[str, dict[str, Array]] = {}
        rest: dict[str, Array] = {}
        self._shared: dict[str, Array] = {}
        for name, tensor in self._source.read().items():
            path = name.removeprefix(PEFT_PREFIX)
            end = next((end for end in self._method.tensors if path.endswith(f".{end}")), None)
            module = path.removesuffix(f".{end}")
            if name.removeprefix("base_model.") in self._method.shared:
                self._shared[name.removeprefix("base_model.")] = tensor
            elif end is None or path == name or (module not in self._sockets and tensor.dtype == np.float32):
                rest[name] = tensor  # of a head, or what the reader of LoRA files refuses by name
            else:
                layers.setdefault(module, {})[end] = tensor
        return layers, rest

    def _update(self, module: str, tensors: Mapping[str, Array]) -> Update | None:
        """A layer's update with A and B; None where it has none."""
        socket = self._sockets.get(module)
        try:
            if socket is None:
                raise LayerError("the base has no linear layer of this name")
            if socket.kernel is not None:
                raise LayerError("it adapts convolutions, which are served with LoRA alone")
            layer = Layer(
                module,
                socket.in_features,
                socket.out_features,
                tensors,
                self._shared,
                self._config,
                self._base,
            )
            with np.errstate(all="ignore"):  # what overflows is found below
                update = self._bounded(module, _finite(self._method.fold(layer)), socket)
        except LayerError as misfit:
            self._misfits.add(str(misfit), module)
            return None
        if update is None or update.b is None or not (update.rank or update.gains):
            return None
        self._count(update)
        return update

    def _bounded(self, module: str, update: Update, socket: Socket) -> Update | None:
        """An update of no more than the rank that is allowed. Raises: LayerError."""
        wanted, most = self._limits.rank, min(socket.in_features, socket.out_features)
        if update.b is not None and update.rank <= (most if wanted is None else wanted):
            return update
        if wanted is not None:
            near, lost, size = cut(update, min(wanted, most))
            self._lost[module] = lost, size
            return replace(near, gains=update.gains) if size or update.gains else None
        if update.b is None:
            raise LayerError(
                f"{self._name} has no exact pair there of a lower rank than the layer's own ({most}); {CHOOSE_RANK}, or {MERGE}"
            )
        return replace(_narrowed(update, update.b), gains=update.gains)

    def _count(self, update: Update) -> None:
        """Raises: AdapterError where the pairs grow beyond their limit: a small file may make large ones."""
        assert update.b is not None
        self._bytes += sum(array.nbytes for array in (update.a, update.b, *update.gains.values()))
        most = self._limits.most_bytes
        if most is not None and self._bytes > most:
            raise AdapterError(
                f"{self._source.place}: its LoRA pairs take more than {most} bytes, the most allowed here"
            )

    def _check_targets(self, layers: Mapping[str, object]) -> None:
        for module in layers:
            if module in self._sockets and not self._config.targets(module):
                self._misfits.add(
                    "adapter_config.json does not target these, so peft would ignore their tensors", module
                )
        for module in self._sockets:
            if (
                module not in layers
                and self._config.target_modules is not None
                and self._config.targets(module)
            ):
                self._misfits.add("adapter_config.json targets these, but their tensors are missing", module)

    def _lora_config(self, pairs: Mapping[str, tuple[Factor, Factor]]) -> dict[str, Any]:
        """The adapter as LoRA whose alpha is its rank in each layer: B has the scale."""
        ranks = {module: len(a) for module, (a, _) in pairs.items()}
        most = max(ranks.values(), default=1)
        others = {module: rank for module, rank in ranks.items() if rank != most}
        refused = (name for name in REFUSED if name not in self._method.settled)
        fields = self._source.config
        kept = {name: fields[name] for name in (*_KEPT, *refused) if fields.get(name)}
        return {
            **kept,
            "peft_type": "LORA",
            "r": most,
            "lora_alpha": most,
            "rank_pattern": others,
            "alpha_pattern": others,
            "target_modules": sorted(ranks),
            "inference_mode": True,
        }


def _finite(update: Update) -> Update:
    arrays = [update.a, *([] if update.b is None else [update.b]), *update.gains.values()]
    if not all(np.isfinite(array).all() for array in arrays):
        raise LayerError("what it adds to the layer is not finite")
    return update


def _narrowed(update: Update, b: Factor) -> Update:
    """The same of the layer's own rank: the product, beside an identity."""
    whole = b @ update.a
    identity = np.eye(min(whole.shape), dtype=np.float32)
    return Update(whole, identity) if len(whole) <= whole.shape[1] else Update(identity, whole)


def _share(lost: float, size: float) -> float:
    """Relative error in the Frobenius norm."""
    return math.sqrt(lost / size) if size else 0.0
