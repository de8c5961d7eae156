"""Finds the products of an int4 profile in a graph and makes each one operator.

ptune.export.decoder.int4 writes a product of x with a weight as MatMulNBits of [s, s, x], where s are the sums of x over its blocks;
before attention, the rounding error of x goes through the product as additional rows. Sums and rounded numbers are products,
too, with ones. `ptune::BlockProduct` does all of it, addition by addition, and gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir

from ptune_kernels.find import DOMAIN, MICROSOFT, made_by, only_user, place, put_behind, values_of

PRODUCT = "MatMulNBits"
OPERATOR = "BlockProduct"
BLOCK, LEVEL = 32, 4


def rewrite(graph: onnx_ir.Graph) -> int:
    """Rewrites all products that are just as expected, and returns their number."""
    ones = _Ones()
    nodes = [node for node in graph if node.op_type == PRODUCT and node.domain == MICROSOFT]
    return sum(_rewrite(node, ones) for node in nodes if _is_known(node) and not ones.are_weight_of(node))


def _rewrite(node: onnx_ir.Node, ones: _Ones) -> bool:
    x = node.inputs[0]
    assert x is not None
    x, sums = _without_sums(x, ones)
    last, twice = node, 0
    if (first := _twice(x, ones)) is not None and (added := _added(node)) is not None:
        x, last, twice = first, added, 1
    attributes = {
        "bits": node.attributes.get_int("bits", 4),
        "in": node.attributes.get_int("K", 0) - 2 * sums,
        "sums": sums,
        "twice": twice,
        "shared_as": place(node.inputs[1]),
    }
    new = onnx_ir.node(OPERATOR, [x, *node.inputs[1:]], attributes, domain=DOMAIN)
    new.name = f"{node.name}.blocks"
    put_behind(last, new)
    return True


def _without_sums(x: onnx_ir.Value, ones: _Ones) -> tuple[onnx_ir.Value, int]:
    """The rows that x is made of together with their sums, and how many sums these are; x and none where it is not."""
    joined = made_by(x, "Concat")
    if joined is None or len(joined.inputs) != 3 or joined.attributes.get_int("axis", 0) != -1:
        return x, 0
    first, second, rows = joined.inputs
    part = made_by(first, PRODUCT, MICROSOFT)
    if (
        rows is None
        or first is not second
        or part is None
        or part.inputs[0] is not rows
        or not ones.are_sums(part)
    ):
        return x, 0
    return rows, part.attributes.get_int("N", 0)


def _is_known(node: onnx_ir.Node) -> bool:
    """Whether the operator computes such a product: all but x constant, blocks of 32, no columns in another order, no bias."""
    given = {
        name: node.attributes.get_int(name, 0) for name in ("K", "N", "bits", "block_size", "accuracy_level")
    }
    constants = node.inputs[1:]
    return (
        given["block_size"] == BLOCK
        and given["accuracy_level"] == LEVEL
        and given["bits"] in (4, 8)
        and len(constants) == (3 if given["bits"] == 4 else 2)
        and all(value is not None and value.const_value is not None for value in constants)
        and constants[1] is not None
        and constants[1].dtype == onnx_ir.DataType.FLOAT
        and all(
            value is not None and value.dtype == onnx_ir.DataType.UINT8
            for value in (constants[0], *constants[2:])
        )
    )


def _twice(x: onnx_ir.Value, ones: _Ones) -> onnx_ir.Value | None:
    """The rows behind which, in x, their rounding errors come."""
    both = made_by(x, "Concat")
    if both is None or len(both.inputs) != 2 or both.attributes.get_int("axis", -1) != 0:
        return None
    rows, rest = both.inputs[0], made_by(both.inputs[1], "Sub")
    rounded = (
        None if rest is None or rest.inputs[0] is not rows else made_by(rest.inputs[1], PRODUCT, MICROSOFT)
    )
    if rounded is None or rounded.inputs[0] is not rows or not ones.are_identity(rounded):
        return None
    return rows


def _added(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """The sum of the halves of a product's rows, where nothing else is made of them."""
    halves = only_user(node.outputs[0], "Split")
    if (
        halves is None
        or len(halves.outputs) != 2
        or halves.attributes.get_int("axis", 0) != 0
        or len(halves.inputs) > 1
    ):
        return None
    first, other = (only_user(half, "Add") for half in halves.outputs)
    return first if first is other else None


@dataclass
class _Ones:
    """Tells weights of ones, which select numbers or add them up. A graph has few of them, for many products."""

    known: dict[tuple[int, str], bool] = field(default_factory=dict)

    def are_weight_of(self, node: onnx_ir.Node) -> bool:
        return self.are_sums(node) or self.are_identity(node)

    def are_sums(self, node: onnx_ir.Node) -> bool:
        """Whether a column has ones for one block, the first for the first, and then zeros."""
        blocks = -(-node.attributes.get_int("K", 0) // BLOCK)
        return self._are(node, "sums", blocks + -blocks % BLOCK)

    def are_identity(self, node: onnx_ir.Node) -> bool:
        return self._are(node, "identity", node.attributes.get_int("K", 0))

    def _are(self, node: onnx_ir.Node, kind: str, columns: int) -> bool:
        if not _is_known(node) or (columns, 4) != tuple(
            node.attributes.get_int(name, 0) for name in ("N", "bits")
        ):
            return False
        q, scale, zero = (value.const_value for value in node.inputs[1:] if value is not None)
        key = (id(q), kind)
        if key not in self.known:
            assert q is not None
            assert scale is not None
            assert zero is not None
            self.known[key] = (
                bool((values_of(scale) == 1).all())
                and not values_of(zero).any()
                and _equal(values_of(q), kind, columns, node.attributes.get_int("K", 0))
            )
        return self.known[key]


def _equal(q: np.ndarray[Any, Any], kind: str, columns: int, width: int) -> bool:
    """Whether q, two numbers a byte, are the ones of this kind."""
    blocks = -(-width // BLOCK)
    if q.size != columns * blocks * BLOCK // 2:
        return False
    expected = np.zeros((columns, blocks, BLOCK // 2), np.uint8)
    if kind == "sums":
        expected[np.arange(blocks), np.arange(blocks)] = 0x11
    else:
        k = np.arange(width)
        expected[k, k // BLOCK, k % BLOCK // 2] = np.where(k % 2, 0x10, 1)
    return bool(np.array_equal(q.reshape(expected.shape), expected))
