"""Lets attention read queries, keys and values packed, as one product writes them, and apply rotary embedding itself.

GroupQueryAttention takes them side by side, with a table of rotary angles and each token's line in it. The step's angles are
that table, one line per flat token; so `pad_indices` also holds the tokens' lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from ptune.export.rewrite import MICROSOFT, before, constant, lazily, made_by, rank_of, width_of

ATTENTION = "GroupQueryAttention"
ROTARY = "RotaryEmbedding"
CAPACITY, COS, SIN, LINES = 6, 7, 8, 9  # indices of its inputs
DIVISOR = 16  # of a head's width; the operator turns other widths only in part


def pack_attention(graph: onnx_ir.Graph) -> int:
    """Replaces three gathers into the padded view, and rotary embedding before them, by one gather and the operator's own."""
    tables: dict[onnx_ir.Value, onnx_ir.Value] = {}
    count = 0
    for node in list(graph):
        if node.op_type == ATTENTION and node.domain == MICROSOFT and node.inputs[1] is not None:
            flat = [found for value in node.inputs[:3] if (found := _gathered(value)) is not None]
            if len(flat) == 3:
                _pack(graph, node, flat, tables)
                count += 1
    return count


def _gathered(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """The flat tokens [groups * tokens, width] that `value` is gathered from, through `pad_indices`."""
    gather = made_by(value, "Gather")
    index = gather.inputs[1] if gather is not None else None
    return (
        gather.inputs[0] if gather is not None and index is not None and index.name == "pad_indices" else None
    )


def _pack(
    graph: onnx_ir.Graph,
    node: onnx_ir.Node,
    flat: Sequence[onnx_ir.Value],
    tables: dict[onnx_ir.Value, onnx_ir.Value],
) -> None:
    pad = next(value for value in graph.inputs if value.name == "pad_indices")
    states = [made.inputs[0] for value in flat if (made := made_by(value, "Reshape")) is not None]
    if len(states) < 3 or any(rank_of(state) != 3 or width_of(state) is None for state in states):
        (lines,) = before(node, "Concat", flat, {"axis": -1})
    else:
        turned = _turned(node, states)
        if turned is not None:
            _turn(graph, node, turned[0], pad, tables)
            states = [*(made.inputs[0] for made in turned), states[2]]
        joined = _joined(graph, node, _known(states))
        shape = constant(graph, f"attention.lines.{width_of(joined)}", np.array([-1, width_of(joined) or 0]))
        (lines,) = before(node, "Reshape", [joined, shape])
    lines.shape, lines.dtype = (
        onnx_ir.Shape([None, sum(width_of(value) or 0 for value in flat)]),
        flat[0].dtype,
    )
    (gathered,) = before(node, "Gather", [lines, pad])
    for place, value in enumerate((gathered, None, None)):
        node.replace_input_with(place, value)


def _turn(
    graph: onnx_ir.Graph,
    node: onnx_ir.Node,
    rotary: onnx_ir.Node,
    pad: onnx_ir.Value,
    tables: dict[onnx_ir.Value, onnx_ir.Value],
) -> None:
    """Moves the work of `rotary` into attention."""
    cos, sin = _known(rotary.inputs[2:4])
    for table in (cos, sin):
        if table not in tables:
            tables[table] = _long_enough(graph, table, node.inputs[CAPACITY])
    node.resize_inputs(max(len(node.inputs), LINES + 1))
    for place, value in ((COS, tables[cos]), (SIN, tables[sin]), (LINES, pad)):
        node.replace_input_with(place, value)
    node.attributes["do_rotary"] = onnx_ir.AttrInt64("do_rotary", 1)


def _turned(node: onnx_ir.Node, states: Sequence[onnx_ir.Value | None]) -> list[onnx_ir.Node] | None:
    """The rotary embeddings of queries and keys, if the operator can replace them."""
    made = [made_by(state, ROTARY, MICROSOFT) for state in states[:2]]
    heads = node.attributes["num_heads"].as_int()
    width = (width_of(states[0]) or 0) // heads
    if made[0] is None or made[1] is None or made[0].inputs[1:] != made[1].inputs[1:] or width % DIVISOR:
        return None
    return [one for one in made if one is not None]


def _joined(graph: onnx_ir.Graph, node: onnx_ir.Node, parts: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
    """Joins the parts side by side. Biases of the parts become one addition; pieces of one product become the product."""
    first = parts[0].producer()
    if first is not None and first.op_type == "Split" and list(first.outputs) == list(parts):
        assert first.inputs[0] is not None
        return first.inputs[0]
    sums = [made_by(part, "Add") for part in parts]
    products = [one.inputs[0] for one in sums if one is not None]
    right = [one.inputs[1] for one in sums if one is not None]
    if (
        len(products) == len(parts)
        and _alike(products, parts)
        and (_alike(right, parts) or _are_biases(right, parts))
    ):
        addends = [_joined(graph, node, _known(each)) for each in (products, right)]
        (total,) = before(node, "Add", addends)
        return _shaped(total, parts)
    if all(part.const_value is not None for part in parts):
        return _biases(graph, parts)
    (joined,) = before(node, "Concat", parts, {"axis": -1})
    return _shaped(joined, parts)


def _alike(values: Sequence[onnx_ir.Value | None], parts: Sequence[onnx_ir.Value]) -> bool:
    return all(
        value is not None and value.shape == part.shape for value, part in zip(values, parts, strict=True)
    )


def _are_biases(values: Sequence[onnx_ir.Value | None], parts: Sequence[onnx_ir.Value]) -> bool:
    return all(
        value is not None
        and value.const_value is not None
        and tuple(value.const_value.shape) == (width_of(part),)
        for value, part in zip(values, parts, strict=True)
    )


def _known(values: Sequence[onnx_ir.Value | None]) -> list[onnx_ir.Value]:
    return [value for value in values if value is not None]


def _shaped(value: onnx_ir.Value, parts: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
    assert parts[0].shape is not None
    width = sum(width_of(part) or 0 for part in parts)
    value.shape, value.dtype = onnx_ir.Shape([*parts[0].shape[:-1], width]), parts[0].dtype
    return value


def _biases(graph: onnx_ir.Graph, parts: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
    """Concatenates vectors lazily, when they are written."""

    def read() -> NDArray[np.generic]:
        return np.concatenate([part.const_value.numpy() for part in parts if part.const_value is not None])

    name = "+".join(str(part.name) for part in parts)
    if name not in graph.initializers:
        graph.register_initializer(lazily(name, [sum(width_of(part) or 0 for part in parts)], read))
    return graph.initializers[name]


def _long_enough(graph: onnx_ir.Graph, table: onnx_ir.Value, capacity: onnx_ir.Value | None) -> onnx_ir.Value:
    """Pads the table with lines of zeros, since the operator requires one for each cell of the cache."""
    made = table.producer()
    assert made is not None
    zero = constant(graph, "attention.zero", np.array([0]))
    count = onnx_ir.node("Shape", [table], {"start": 0, "end": 1})
    wanted = onnx_ir.node("Cast", [capacity], {"to": onnx_ir.DataType.INT64.value})
    missing = onnx_ir.node("Sub", [wanted.outputs[0], count.outputs[0]])
    behind = onnx_ir.node("Max", [missing.outputs[0], zero])
    pads = onnx_ir.node("Concat", [zero, zero, behind.outputs[0], zero], {"axis": 0})
    padded = onnx_ir.node("Pad", [table, pads.outputs[0]])
    graph.insert_after(made, [count, wanted, missing, behind, pads, padded])
    return padded.outputs[0]
