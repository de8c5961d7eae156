"""A decoder's graph in int4: products with weights as MatMulNBits, 4 bits in blocks of 32, the head in 8.

The operator rounds an input to int8, each block of 32 by its own largest value (accuracy_level 4), and sums integers: a row
has the same bits in any number of rows. At other levels, one row and several differ, and several take four times as long.

A block is w = scale * (q - zero) + offset (`blocks`). The operator has no offset. But sum_i offset x_i is the offset times the
sum of x over the block, so these sums become additional inputs in front of x, with the offsets as weights: [s, s, x], the
first for the offsets in 4 bits, the second for their remainders. They add a tenth to a product's input, and two small operators.

The head has 8 bits, as in llama.cpp's 4-bit files. Before queries, keys and values, the rounding error of x goes through the
product, too, as additional rows, which nearly halves SmolLM2's loss. The error is x - x I: a product with the identity rounds x
as the operator always does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from ptune.export.blocks import (
    BLOCK,
    Blocks,
    blocks_of,
    bytes_of,
    identity,
    nibbles,
    sums_of_blocks,
    with_offsets,
)
from ptune.export.decoder.experts import Grouped, grouped_products, single
from ptune.export.decoder.int8 import floats_of, rewrite_products, weight_of
from ptune.export.fuse.attention import ATTENTION
from ptune.export.rewrite import MICROSOFT, before, constant, replace

LEVEL = 4  # accuracy_level: activations in int8


@dataclass(frozen=True)
class Written:
    """The result for the weights."""

    products: int
    kept: float  # share of 4-bit blocks that are kept exactly


def write_int4(source: Path, target: Path) -> Written:
    """Reads a decoder's float32 graph at `source`; writes `target`, and its weights as `target`.data.

    Memory holds the written weights and one of the source's at a time.
    Raises: BackboneError if there is no product with a weight.
    """
    kept: list[tuple[float, int]] = []

    def rewrite(graph: onnx_ir.Graph, products: list[onnx_ir.Node]) -> None:
        rounding, groups = _Rounding(graph), grouped_products(graph)
        *layers, head = single(products, groups)
        fine = [_feeds_attention(node) for node in layers]
        for node, twice in zip(layers, fine, strict=True):
            kept.append(rounding.rewrite(node, twice))
        for group in groups:
            kept.extend(rounding.rewrite_experts(group))
        rounding.rewrite_head(head)

    products = rewrite_products(source, target, "int4", rewrite)
    blocks = sum(count for _, count in kept)
    return Written(products, sum(share * count for share, count in kept) / max(blocks, 1))


class _Rounding:
    """Rewrites one graph. Values that several products need are computed once."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self.inputs: dict[onnx_ir.Value, onnx_ir.Value] = {}
        self.rests: dict[onnx_ir.Value, onnx_ir.Value] = {}

    def rewrite(self, node: onnx_ir.Node, twice: bool) -> tuple[float, int]:
        """Rewrites x W in 4 bits; returns the share of kept blocks, and their number. twice: adds x's rounding error."""
        x, weight, name = _parts(node)
        width = weight.shape[1]
        if twice:
            x = self._with_rest(x, node, width)
        blocks = blocks_of(weight)
        count = blocks.scale.size
        if blocks.offset.any():
            if x not in self.inputs:
                self.inputs[x] = self._with_sums(x, node, width)
            x, blocks = self.inputs[x], with_offsets(blocks)
            width += 2 * _sums(width)
        out = self._product(node, x, blocks, name, width)
        replace(node, self._sum(node, out) if twice else out)
        return blocks.kept, count

    def rewrite_experts(self, group: Grouped) -> Iterator[tuple[float, int]]:
        """Rewrites the products of one layer's experts in 4 bits; yields what `rewrite` returns."""
        summed: tuple[onnx_ir.Value, ...] | None = None
        for number, node in enumerate(group.products):
            x, weight, name = _parts(node)
            width, blocks = weight.shape[1], blocks_of(weight)
            count = blocks.scale.size
            if blocks.offset.any():
                if summed is None:
                    rows = self._with_sums(group.rows, group.split, width)
                    cut = {"axis": 0}
                    summed = before(
                        group.split, "Split", [rows, group.sizes], cut, outputs=len(group.products)
                    )
                x, blocks, width = summed[number], with_offsets(blocks), width + 2 * _sums(width)
            replace(node, self._product(node, x, blocks, name, width))
            yield blocks.kept, count

    def rewrite_head(self, node: onnx_ir.Node) -> None:
        """Rewrites x W in 8 bits."""
        x, weight, name = _parts(node)
        q, scale = bytes_of(weight)
        constants = [self._constant(f"{name}.q8", q), self._constant(f"{name}.scale", scale)]
        attributes = _attributes(weight.shape[1], len(weight), bits=8)
        (out,) = before(node, "MatMulNBits", [x, *constants], attributes, domain=MICROSOFT)
        replace(node, out)

    def _with_rest(self, x: onnx_ir.Value, node: onnx_ir.Node, width: int) -> onnx_ir.Value:
        """Stacks x [n, …, width] and its rounding error: [2 n, …, width]."""
        if x not in self.rests:
            rounded = self._product(node, x, identity(width), f"int4.identity.{width}", width)
            (rest,) = before(node, "Sub", [x, rounded])
            (self.rests[x],) = before(node, "Concat", [x, rest], {"axis": 0})
        return self.rests[x]

    def _sum(self, node: onnx_ir.Node, both: onnx_ir.Value) -> onnx_ir.Value:
        """Adds the products of `_with_rest`'s halves."""
        halves = before(node, "Split", [both], {"axis": 0, "num_outputs": 2}, outputs=2)
        (out,) = before(node, "Add", [*halves], like=node.outputs[0])
        return out

    def _with_sums(self, x: onnx_ir.Value, node: onnx_ir.Node, width: int) -> onnx_ir.Value:
        """Concatenates [s, s, x] for x [..., width]."""
        sums = self._product(node, x, sums_of_blocks(width), f"int4.sums.{width}", width)
        (joined,) = before(node, "Concat", [sums, sums, x], {"axis": -1})
        return joined

    def _product(
        self,
        node: onnx_ir.Node,
        x: onnx_ir.Value,
        blocks: Blocks,
        name: str,
        width: int,
    ) -> onnx_ir.Value:
        """Multiplies x [..., width] with 4-bit blocks [out, width] without offsets."""
        constants = [
            self._constant(f"{name}.q4", nibbles(blocks.q)),
            self._constant(f"{name}.scale", blocks.scale),
            self._constant(f"{name}.zero", nibbles(blocks.zero)),
        ]
        attributes = _attributes(width, len(blocks.q), bits=4)
        (out,) = before(node, "MatMulNBits", [x, *constants], attributes, domain=MICROSOFT)
        return out

    def _constant(self, name: str, value: NDArray[np.generic]) -> onnx_ir.Value:
        return constant(self.graph, name, np.ascontiguousarray(value))


def _parts(node: onnx_ir.Node) -> tuple[onnx_ir.Value, NDArray[np.float32], str]:
    """A product's input, its weight as [out, in], and the weight's name."""
    x, matrix = node.inputs[0], weight_of(node)
    assert x is not None
    assert matrix is not None
    return x, np.ascontiguousarray(floats_of(*matrix).T), str(matrix[0].name)


def _feeds_attention(node: onnx_ir.Node) -> bool:
    """Whether a product's output reaches attention before another product."""
    seen, queue = set(), [node]
    while queue:
        for after in queue.pop().successors():
            if after.op_type == ATTENTION:
                return True
            if after.op_type != "MatMul" and after not in seen:
                seen.add(after)
                queue.append(after)
    return False


def _sums(width: int) -> int:
    blocks = -(-width // BLOCK)
    return blocks + -blocks % BLOCK


def _attributes(width: int, out: int, *, bits: int) -> dict[str, int]:
    return {"K": width, "N": out, "bits": bits, "block_size": BLOCK, "accuracy_level": LEVEL}
