"""Fuses rotary position embedding (Su et al. 2021) of the kind that pairs the two halves of a head."""

from __future__ import annotations

import numpy as np
import onnx_ir

from ptune.export.rewrite import (
    MICROSOFT,
    before,
    constant,
    constant_of,
    made_by,
    other_input,
    replace,
    width_of,
)

HEADS_FIRST = [0, 2, 1, 3]


def fuse_rotary(graph: onnx_ir.Graph) -> int:
    """Replaces x cos + (-x2, x1) sin of [rows, heads, tokens, dim] by RotaryEmbedding of [rows, tokens, heads * dim]."""
    tables: dict[onnx_ir.Value, onnx_ir.Value] = {}
    positions = next((value for value in graph.inputs if value.name == "position_ids"), None)
    placed = positions is not None and positions.shape is not None and len(positions.shape) == 3
    count = 0
    for node in list(graph):
        if node.op_type == "Add" and (match := _match(node, placed)) is not None:
            _rewrite(graph, node, *match, tables)
            count += 1
    return count


def _match(node: onnx_ir.Node, placed: bool) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value] | None:
    """Matches at the last addition; returns x [rows, tokens, heads, dim], cos and sin [rows, tokens, dim].

    placed: whether tokens have positions in three dimensions.
    """
    for straight, turned in (node.inputs, reversed(node.inputs)):
        products = made_by(straight, "Mul"), made_by(turned, "Mul")
        if products[0] is None or products[1] is None:
            continue
        for half in products[1].inputs:
            x = _rotated(half)
            if x is None:
                continue
            cos = _table(other_input(products[0], x), "Cos", placed)
            sin = _table(other_input(products[1], half), "Sin", placed)
            heads = made_by(x, "Transpose")
            if (
                cos is not None
                and sin is not None
                and heads is not None
                and list(heads.attributes["perm"].as_ints()) == HEADS_FIRST
                and heads.inputs[0] is not None
            ):
                return heads.inputs[0], cos, sin
    return None


def _rotated(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """Returns x if `value` is Concat(-x[half:], x[:half]) over the last axis."""
    joined = made_by(value, "Concat")
    if joined is None or len(joined.inputs) != 2:
        return None
    negative = made_by(joined.inputs[0], "Neg")
    upper = made_by(negative.inputs[0], "Slice") if negative is not None else None
    lower = made_by(joined.inputs[1], "Slice")
    if upper is None or lower is None or upper.inputs[0] is not lower.inputs[0]:
        return None
    x = upper.inputs[0]
    width = width_of(x)
    if width is None or _span(lower) != (0, width // 2) or _span(upper)[0] != width // 2:
        return None
    return x if _span(upper)[1] >= width and _axis(lower) == _axis(upper) == 3 else None


def _span(piece: onnx_ir.Node) -> tuple[int, int]:
    """Begin and end of a slice with constant bounds along one axis; (-1, -1) for other nodes."""
    bounds = [constant_of(value) for value in piece.inputs[1:]]
    if len(bounds) < 3 or any(bound is None or bound.size != 1 for bound in bounds):
        return -1, -1
    begin, end = (int(bound.reshape(())) for bound in bounds[:2] if bound is not None)
    return begin, end


def _axis(piece: onnx_ir.Node) -> int:
    found = constant_of(piece.inputs[3]) if len(piece.inputs) > 3 else None
    return -1 if found is None else int(found.reshape(()))


def _table(value: onnx_ir.Value | None, kind: str, placed: bool) -> onnx_ir.Value | None:
    """cos or sin [rows, tokens, dim] without the axis for the heads, if its two halves are equal."""
    spread = made_by(value, "Unsqueeze")
    if spread is None or spread.inputs[0] is None:
        return None
    table = spread.inputs[0]
    if placed and _doubled(table):  # put together out of three angles' waves
        return table
    angles = table
    scaled = made_by(table, "Mul")
    if scaled is not None:
        angles = next((one for one in scaled.inputs if made_by(one, kind) is not None), table)
        if constant_of(other_input(scaled, angles)) is None:
            return None
    waves = made_by(angles, kind)
    return table if waves is not None and _doubled(waves.inputs[0]) else None


def _doubled(value: onnx_ir.Value | None) -> bool:
    """Whether a value's two halves are equal."""
    joined = made_by(value, "Concat")
    return joined is not None and len(joined.inputs) == 2 and joined.inputs[0] is joined.inputs[1]


def _rewrite(
    graph: onnx_ir.Graph,
    node: onnx_ir.Node,
    x: onnx_ir.Value,
    cos: onnx_ir.Value,
    sin: onnx_ir.Value,
    tables: dict[onnx_ir.Value, onnx_ir.Value],
) -> None:
    heads, width = width_of(x, 2), width_of(x, 3)
    assert heads is not None
    assert width is not None
    assert x.shape is not None
    for table in (cos, sin):
        if table not in tables:
            tables[table] = _halved(graph, table, width)
    flat_shape = constant(graph, f"rotary.{heads * width}", np.array([0, 0, heads * width]))
    head_shape = constant(graph, f"rotary.{heads}x{width}", np.array([0, 0, heads, width]))
    (flat,) = before(node, "Reshape", [x, flat_shape])
    flat.shape, flat.dtype = onnx_ir.Shape([*x.shape[:2], heads * width]), x.dtype
    inputs = [flat, _order(graph), tables[cos], tables[sin]]
    (turned,) = before(node, "RotaryEmbedding", inputs, {"num_heads": heads}, domain=MICROSOFT, like=flat)
    (split,) = before(node, "Reshape", [turned, head_shape], like=x)
    (out,) = before(node, "Transpose", [split], {"perm": HEADS_FIRST}, like=node.outputs[0])
    replace(node, out)


def _halved(graph: onnx_ir.Graph, table: onnx_ir.Value, width: int) -> onnx_ir.Value:
    """[rows, tokens, dim] -> [rows * tokens, dim / 2]: the step's angles as the operator's table."""
    made = table.producer()
    assert made is not None
    begin, end = (
        constant(graph, "rotary.begin", np.array([0])),
        constant(graph, f"rotary.end{width}", np.array([width // 2])),
    )
    last = constant(graph, "rotary.last", np.array([-1]))
    piece = onnx_ir.node("Slice", [table, begin, end, last])
    flat = onnx_ir.node(
        "Reshape", [piece.outputs[0], constant(graph, f"rotary.table{width}", np.array([-1, width // 2]))]
    )
    graph.insert_after(made, [piece, flat])
    return flat.outputs[0]


def _order(graph: onnx_ir.Graph) -> onnx_ir.Value:
    """Each token's line in the table, [rows, tokens], in order."""
    name = "rotary.order"
    lines = next((node.outputs[0] for node in graph if node.outputs[0].name == name), None)
    if lines is not None:
        return lines
    tokens = next(value for value in graph.inputs if value.name == "input_ids")
    zero, one = constant(graph, "rotary.zero", np.int64(0)), constant(graph, "rotary.one", np.int64(1))
    size = onnx_ir.node("Size", [tokens])
    steps = onnx_ir.node("Range", [zero, size.outputs[0], one])
    shape = onnx_ir.node("Shape", [tokens])
    order = onnx_ir.node("Reshape", [steps.outputs[0], shape.outputs[0]])
    order.outputs[0].name = name
    graph.insert_before(graph[0], [size, steps, shape, order])
    return order.outputs[0]
