"""A decoder's graph on the bytes of an nf4 base: products with weights as MatMulBnb4, in 4-bit NormalFloat.

A base that trained in nf4 is exported as the float32 weights that its bytes encode: code[q] * absmax, in blocks of 64. Here
q and absmax are recovered exactly from these weights: a block's largest value is absmax, because one of its codes is 1 or -1.
So the graph is an eighth as large and computes with exactly the weights that QLoRA trained on; other weights (the head)
stay float32. The operator dequantises a weight for every product: small in memory, but slow. Until the graph is written its
bytes lie in a file without a name, so that memory holds one weight at a time.

Source: QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), appendix E.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir
import torch
from numpy.typing import NDArray

from ptune.backbone.layer_file import LayerFile
from ptune.errors import BackboneError
from ptune.export.blocks import nibbles
from ptune.export.decoder.experts import Grouped, grouped_products
from ptune.export.decoder.int8 import floats_of, rewrite_products, weight_of
from ptune.export.rewrite import MICROSOFT, before, constant, replace

Array = NDArray[np.float32]

BLOCK = 64
CODE: Array = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
_BETWEEN = (CODE[1:] + CODE[:-1]) / 2
_ROWS = 4 * BLOCK  # looked at together: a multiple of BLOCK, so that no block is cut
LEAST_TOKENS = 2  # of a step: a single row uses a kernel with another order of summation
_NF4 = 1  # MatMulBnb4's quant_type


class Blocks(NamedTuple):
    """A weight [out, in] as in bitsandbytes: row after row, cut into blocks of 64."""

    q: NDArray[np.uint8]  # [blocks, 64], indices into CODE
    absmax: Array  # [blocks]


def blocks_of(weight: Array) -> Blocks | None:
    """The blocks that encode a weight [out, in] exactly; None if there are none."""
    if weight.size % BLOCK:
        return None
    q, absmax = np.empty((weight.size // BLOCK, BLOCK), np.uint8), np.empty(weight.size // BLOCK, np.float32)
    done = 0
    for start in range(0, len(weight), _ROWS):
        part = _blocks_of_rows(weight[start : start + _ROWS])
        if part is None:
            return None
        here = slice(done, done := done + len(part.absmax))
        q[here], absmax[here] = part
    return Blocks(q, absmax)


def _blocks_of_rows(rows: Array) -> Blocks | None:
    """The same of some rows, whatever their order in memory."""
    values = np.ascontiguousarray(rows).reshape(-1, BLOCK)
    absmax = np.abs(values).max(axis=1)
    shares = values / np.where(absmax > 0, absmax, 1)[:, None]
    q = np.searchsorted(_BETWEEN, shares).astype(np.uint8)
    return Blocks(q, absmax) if np.array_equal(CODE[q] * absmax[:, None], values) else None


def write_nf4(source: Path | onnx_ir.Model, target: Path) -> int:
    """Reads a decoder's float32 graph; writes `target`, and its weights as `target`.data.

    source: the graph's file; or one in memory whose weights are read when they are needed. Memory holds one of them at a
    time. Returns the number of products in nf4.
    Raises: BackboneError if no weight has nf4 values; PtuneError if the disk is full.
    """
    count, file = 0, LayerFile(target.parent)

    def rewrite(graph: onnx_ir.Graph, products: list[onnx_ir.Node]) -> None:
        nonlocal count
        groups = grouped_products(graph)
        for group in groups:
            _double_rows(graph, group)
        count = sum(_rewritten(graph, node, file) for node in products)

    rewrite_products(source, target, "nf4", rewrite)
    if not count:
        raise BackboneError(
            "the model has no weight that came out of nf4: the profile nf4 rounds nothing itself"
        )
    return count


def _double_rows(graph: onnx_ir.Graph, group: Grouped) -> None:
    """Has experts compute every row twice: one that a single token chose would use the kernel of a single row."""
    (width, columns), two = _sizes(group.products[0]), constant(graph, "nf4.two", np.array(2))
    row = constant(graph, f"nf4.row.{width}", np.array([-1, width]))
    both = constant(graph, f"nf4.both.{columns}", np.array([-1, 2 * columns]))
    (beside,) = before(group.split, "Concat", [group.rows, group.rows], {"axis": -1})
    (rows,) = before(group.split, "Reshape", [beside, row])
    (sizes,) = before(group.split, "Mul", [group.sizes, two])
    group.split.replace_input_with(0, rows)
    group.split.replace_input_with(1, sizes)
    (joined,) = before(group.joined, "Concat", [*group.joined.inputs], {"axis": 0})
    (beside,) = before(group.joined, "Reshape", [joined, both])
    first, _ = before(group.joined, "Split", [beside], {"axis": -1, "num_outputs": 2}, outputs=2)
    replace(group.joined, first)


def _sizes(product: onnx_ir.Node) -> tuple[int, int]:
    """The widths of a product's input and output."""
    found = weight_of(product)
    assert found is not None
    matrix, turned = found
    assert matrix.shape is not None
    rows, columns = (int(size) for size in matrix.shape)
    return (columns, rows) if turned else (rows, columns)


def _rewritten(graph: onnx_ir.Graph, node: onnx_ir.Node, file: LayerFile) -> bool:
    """Rewrites x W on the nf4 bytes of W, which `file` takes; returns whether W has them."""
    x, matrix = node.inputs[0], weight_of(node)
    assert x is not None
    assert matrix is not None
    weight = floats_of(*matrix).T
    blocks = blocks_of(weight)
    if blocks is None:
        return False
    name = str(matrix[0].name)
    high_first = nibbles(blocks.q.reshape(-1, 2)[:, ::-1]).reshape(-1)
    inputs = [
        x,
        constant(graph, f"{name}.nf4", file.keep(torch.from_numpy(high_first)).numpy()),
        constant(graph, f"{name}.absmax", file.keep(torch.from_numpy(blocks.absmax)).numpy()),
    ]
    attributes = {"K": weight.shape[1], "N": weight.shape[0], "block_size": BLOCK, "quant_type": _NF4}
    (out,) = before(node, "MatMulBnb4", inputs, attributes, like=node.outputs[0], domain=MICROSOFT)
    replace(node, out)
    return True
