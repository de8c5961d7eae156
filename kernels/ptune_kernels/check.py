"""Compares own operators with the operators of onnxruntime that they replace, on this machine: bit by bit, attention within rounding.

On processors without AVX-512 onnxruntime's own products have other bits than on those with it. Where AVX-VNNI is missing, too, it
limits sums of two products of bytes to 16 bits, and int8's are wrong. int4's blocks are added up in another order. There own products
are compared with the package's plain C++, whose bits are those of processors with AVX-512.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import onnx_ir

from ptune_kernels import (
    PLAIN,
    attention,
    blocks,
    gated,
    kernel,
    low_rank,
    plain,
    plain_attention,
    rounded,
    use_kernel,
)
from ptune_kernels.rewrite import rewritten, written
from ptune_kernels.session import session

# By the operator that is replaced: how its products are written, and their inputs and outputs.
PRODUCTS: dict[str, list[tuple[Any, int, int]]] = {
    rounded.PRODUCT: [(plain.rounded_product, *size) for size in ((64, 16), (100, 33), (1536, 56))],
    blocks.PRODUCT: [
        (plain.block_product, 1536, 56),
        (partial(plain.block_product, twice=False), 100, 33),
        (partial(plain.block_product, sums=False), 96, 70),
        (partial(plain.block_product, bits=8, twice=False, sums=False), 576, 54),
    ],
}
WIDTHS = (8, 201, 1536)  # of gated units
ROWS = (1, 2, 3, 4, 7, 130)
WITHOUT_AVX512 = ("avx2", "avx_vnni")  # kernels
ATTENTION = (
    plain_attention.Heads(6, 2, 64, 64, sinks=True),
    plain_attention.Heads(4, 4, 48, 16, attributes={"local_window_size": 33, "softcap": 5.0, "scale": 0.2}),
    plain_attention.Heads(6, 2, 64, int8=True),
)
SEQUENCES, POSITIONS = ((300, 1), (5, 0), (0, 9), (140, 3), (120, 40)), 352
ROUNDING = 3e-6  # between two orders of a sum, beside the largest number


def differs(product: str) -> str | None:
    """What differs in the operator for this one of onnxruntime, in words; None where every bit is that of a processor with AVX-512.

    Attention is compared within ROUNDING. Of what adapters add: what is wrong with it.
    """
    if product == attention.PRODUCT:
        return _attention_differs()
    if product == low_rank.PRODUCT:
        from ptune_kernels.check_low_rank import updates_are_right

        return updates_are_right()
    for write, inputs, outputs in PRODUCTS[product]:
        random = np.random.default_rng(inputs)
        model = write(random, inputs, outputs)
        whole = onnx_ir.to_proto(model).SerializeToString()
        graph, count = rewritten(model, product)
        if count != 1:
            return "its own product is not recognised"
        found = [*rows_of(random, inputs)]
        rows = _rows_that_differ(session(whole), session(graph), found)
        if rows is not None and kernel() in WITHOUT_AVX512:
            rows = _rows_that_differ(_in_plain_cpp(graph), session(graph), found)
        if rows is not None:
            return f"{rows} rows of {inputs} numbers give other bits than the plain graph"
    return None


@cache
def units_are_the_same() -> bool:
    """Whether the operator for gated units gives the same bits as onnxruntime's operators."""
    for width in WIDTHS:
        random = np.random.default_rng(width)
        model = plain.gated_unit(random, width)
        unit = onnx_ir.to_proto(model).SerializeToString()
        if gated.rewrite(model.graph) != 1:
            return False
        if _rows_that_differ(session(unit), session(written(model)), rows_of(random, 2 * width)) is not None:
            return False
    return True


def _attention_differs() -> str | None:
    """The same of attention: a long sequence beside short ones that generate and one that reads a prompt, either cache."""
    for heads in ATTENTION:
        step = plain_attention.Step.of(np.random.default_rng(heads.dim), heads, SEQUENCES, POSITIONS)
        model = plain_attention.model(heads)
        whole = onnx_ir.to_proto(model).SerializeToString()
        graph, count = rewritten(model, attention.PRODUCT, attends=True)
        if count != 1:
            return "its own attention is not recognised"
        expected, found = (step.answers(session(one)) for one in (whole, graph))
        off = max(_off(*pair) for pair in zip(expected, found, strict=True))
        if not off <= ROUNDING:
            return f"heads of {heads.dim} numbers are off by {off:.1g} from onnxruntime's attention"
    return None


def _off(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    """The largest difference beside the largest number; for NaN, too."""
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def _in_plain_cpp(graph: bytes) -> Any:
    """A session whose own operators are the package's plain C++."""
    best = kernel()
    use_kernel(PLAIN)
    try:
        return session(graph)
    finally:
        use_kernel(best)


def _rows_that_differ(one: Any, other: Any, inputs: Iterable[np.ndarray[Any, Any]]) -> int | None:
    """How many rows give other bits in one session than in the other."""
    for x in inputs:
        expected, found = one.run(None, {"x": x})[0], other.run(None, {"x": x})[0]
        if not np.array_equal(expected.view(np.uint32), found.view(np.uint32)):
            return len(x)
    return None


def rows_of(random: np.random.Generator, inputs: int) -> Iterator[np.ndarray[Any, Any]]:
    """Rows of ordinary numbers, with a large one, a small one, zeros."""
    for count in ROWS:
        x = random.standard_normal((count, inputs)).astype(np.float32)
        x[0, 0], x[-1, 1], x[:, 2] = 300, 1e-30, 0
        yield x
