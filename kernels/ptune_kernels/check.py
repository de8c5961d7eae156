"""Compares own operators with the operators of onnxruntime that they replace, on this machine, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime

from ptune_kernels import LIBRARY, blocks, plain, rounded
from ptune_kernels.rewrite import rewritten

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
ROWS = (1, 2, 3, 4, 7, 130)
THREADS = 2


def differs(product: str) -> str | None:
    """What differs in the operator for this one of onnxruntime, in words; None where every bit is the same."""
    for write, inputs, outputs in PRODUCTS[product]:
        random = np.random.default_rng(inputs)
        model = write(random, inputs, outputs)
        written = onnx_ir.to_proto(model).SerializeToString()
        graph, count = rewritten(model, product)
        if count != 1:
            return "its own product is not recognised"
        ours, own = session(written), session(graph)
        for x in rows_of(random, inputs):
            expected, found = ours.run(None, {"x": x})[0], own.run(None, {"x": x})[0]
            if not np.array_equal(expected.view(np.uint32), found.view(np.uint32)):
                return f"{len(x)} rows of {inputs} numbers give other bits than the plain graph"
    return None


def session(graph: bytes) -> Any:
    """Opens a graph with the operators."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def rows_of(random: np.random.Generator, inputs: int) -> Iterator[np.ndarray[Any, Any]]:
    """Rows of ordinary numbers, with a large one, a small one, zeros."""
    for count in ROWS:
        x = random.standard_normal((count, inputs)).astype(np.float32)
        x[0, 0], x[-1, 1], x[:, 2] = 300, 1e-30, 0
        yield x
