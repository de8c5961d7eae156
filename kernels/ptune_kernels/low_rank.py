"""Finds what adapters add to linear layers and makes one operator of it, for all layers that read the same rows.

ptune.export.decoder.sockets writes y + ((x A) * lora_mask + lora_ones) B in four or five operators of onnxruntime. Layers whose products
are one product have their updates side by side, or their outputs divided and updated one by one. The operator of that product
computes the updates, too, or `ptune::LowRankUpdate` behind another. They are added up in another order, which depends on neither
rank nor company: an adapter's answers are then the same bits in any.

Its factors are one input of the graph in place of two for each layer: a line for each adapter, in which they lie in the order in
which they are read. The graph's metadata names them in this order. B [R, out] lies in panels of its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir

from ptune_kernels.find import DOMAIN, made_by, put_behind

OPERATOR = "LowRankUpdate"
FIRST = {
    OPERATOR: 1,
    "RoundedProduct": 6,
    "BlockProduct": 4,
}  # the input x of updates, in each operator that computes them
PRODUCT = "lora_mask"  # in every graph that has such updates
FLOAT = onnx_ir.DataType.FLOAT
FACTORS = "lora_factors"  # the input, and the entry of the metadata: names between line breaks
PANEL = "lora_panel"  # the entry of the metadata with the number of columns
COLUMNS = 64  # of a panel of B, as kernels/src/low_rank.h has them


@dataclass(frozen=True)
class _Update:
    """((x A) * mask + ones) B of one layer, and the operators that compute it, the last one first."""

    x: onnx_ir.Value
    mask: onnx_ir.Value
    ones: onnx_ir.Value | None
    a: onnx_ir.Value
    b: onnx_ir.Value
    nodes: tuple[onnx_ir.Node, ...]

    @property
    def rows(self) -> tuple[onnx_ir.Value | None, ...]:
        """What layers have in common whose updates are computed together."""
        return self.x, self.mask, self.ones


@dataclass(frozen=True)
class _Joined:
    """Updates side by side, and the operator that puts them there."""

    updates: list[_Update]
    by: onnx_ir.Node | None = None


def rewrite(model: onnx_ir.Model, *, halves: bool = False) -> int:
    """Rewrites all updates that are just as expected, and returns their number.

    halves: their factors become float16, unless some of them may be biases, whose numbers reach the output as they are.
    """
    graph = model.graph
    sums = [node for node in graph if _addends(node) is not None]
    if not sums:
        return 0
    several = []
    for node in sums:
        if (addends := _addends(node)) is not None:  # anew: what it reads may have been replaced
            several += addends[1].updates
            _put_in_place(node, *addends)
    for divided in [node for node in graph if node.op_type == "Split" and node.domain == ""]:
        _before_split(divided, graph)
    for node in [node for node in graph if (node.op_type, node.domain) == (OPERATOR, DOMAIN)]:
        _into_product(node, graph)
    halves = halves and all(update.ones is None for update in several)
    _pack(model, onnx_ir.DataType.FLOAT16 if halves else FLOAT)
    return len(several)


def _addends(node: onnx_ir.Node) -> tuple[onnx_ir.Value, _Joined] | None:
    """A layer's output, and the updates that a sum adds to it; None where it is another sum."""
    if node.op_type != "Add" or node.domain != "":
        return None
    for base, update in (node.inputs, node.inputs[::-1]):
        if base is not None and (joined := _joined(update)) is not None:
            return base, joined
    return None


def _put_in_place(node: onnx_ir.Node, base: onnx_ir.Value, joined: _Joined) -> None:
    """Puts the operator in place of a sum of a layer's output and updates. Its factors are inputs of their own at first."""
    updates = joined.updates
    factors = [factor for update in updates for factor in (update.a, update.b)]
    new = onnx_ir.node(OPERATOR, [base, *updates[0].rows, *factors], domain=DOMAIN)
    new.name = f"{updates[-1].b.name}.update"
    put_behind(node, new)
    gone = [
        node,
        *([] if joined.by is None else [joined.by]),
        *(one for update in updates for one in update.nodes),
    ]
    for each in gone:
        assert each.graph is not None
        each.graph.remove(each, safe=True)


def _joined(value: onnx_ir.Value | None) -> _Joined | None:
    """What adapters add here, layer by layer as they lie side by side; None where it is not just that."""
    if value is None or not _is_used_once(value):
        return None
    by = made_by(value, "Concat")
    if by is None:
        one = _update(value)
        return None if one is None else _Joined([one])
    updates = [
        update
        for part in by.inputs
        if part is not None and _is_used_once(part) and (update := _update(part)) is not None
    ]
    alike = len(updates) == len(by.inputs) and len({update.rows for update in updates}) == 1
    return _Joined(updates, by) if alike and by.attributes.get_int("axis", 0) == -1 else None


def _update(value: onnx_ir.Value) -> _Update | None:
    """What an adapter adds to one layer, if `value` is just that."""
    shaped = made_by(value, "Reshape")
    up = made_by(value if shaped is None else shaped.inputs[0], "MatMul")
    low = None if up is None else up.inputs[0]
    added = made_by(low, "Add")
    masked = made_by(low if added is None else added.inputs[0], "Mul")
    down = made_by(None if masked is None else masked.inputs[0], "MatMul")
    if up is None or masked is None or down is None:
        return None
    nodes = [node for node in (shaped, up, added, masked, down) if node is not None]
    x, a, mask, b = down.inputs[0], down.inputs[1], masked.inputs[1], up.inputs[1]
    known = x is not None and mask is not None and _is_factor(a, 1) and _is_factor(b, 2)
    if not known or not all(_is_used_once(node.outputs[0]) for node in nodes):
        return None
    assert x is not None
    assert mask is not None
    assert a is not None
    assert b is not None
    return _Update(x, mask, None if added is None else added.inputs[1], a, b, tuple(nodes))


def _is_used_once(value: onnx_ir.Value) -> bool:
    return len(list(value.uses())) == 1 and not value.is_graph_output()


def _is_factor(value: onnx_ir.Value | None, axis: int) -> bool:
    """Whether a value is an input of the graph, used once, of whose three dimensions `axis` alone is known."""
    return (
        value is not None
        and value.is_graph_input()
        and _is_used_once(value)
        and value.dtype == FLOAT
        and value.shape is not None
        and len(value.shape) == 3
        and [isinstance(size, int) for size in value.shape] == [False, axis == 1, axis == 2]
    )


def _before_split(split: onnx_ir.Node, graph: onnx_ir.Graph) -> None:
    """Makes one operator of those behind the parts of a divided output."""
    whole = split.inputs[0]
    if (
        whole is None
        or split.attributes.get_int("axis", 0) != -1
        or not all(map(_is_used_once, split.outputs))
    ):
        return
    behind = [next(iter(part.uses())).node for part in split.outputs]
    if any(
        (node.op_type, node.domain) != (OPERATOR, DOMAIN) or node.inputs[0] is not part
        for node, part in zip(behind, split.outputs, strict=True)
    ):
        return
    rows = [*behind[0].inputs[1:4]]
    if any([*node.inputs[1:4]] != rows for node in behind) or not _are_there(rows, split, graph):
        return
    factors = [factor for node in behind for factor in node.inputs[4:]]
    new = onnx_ir.node(OPERATOR, [whole, *rows, *factors], domain=DOMAIN)
    new.name = behind[-1].name
    new.outputs[0].dtype, new.outputs[0].shape = whole.dtype, whole.shape
    graph.insert_before(split, new)
    split.replace_input_with(0, new.outputs[0])
    for node, part in zip(behind, split.outputs, strict=True):
        old = node.outputs[0]
        if old.is_graph_output():
            part.name, old.name = old.name, None
        old.replace_all_uses_with(part, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _into_product(node: onnx_ir.Node, graph: onnx_ir.Graph) -> None:
    """Lets the product whose output is updated do that itself, where it is an own operator."""
    base = node.inputs[0]
    product = None if base is None else base.producer()
    if base is None or product is None or product.domain != DOMAIN or product.op_type not in FIRST:
        return
    first, rows = FIRST[product.op_type], [*node.inputs[1:4]]
    zero = (
        product.op_type == "BlockProduct" and len(product.inputs) < first
    )  # which it looks for among its inputs
    if not _is_used_once(base) or zero or len(product.inputs) > first or not _are_there(rows, product, graph):
        return
    given = [*product.inputs, *[None] * (first - len(product.inputs)), *node.inputs[1:]]
    product.resize_inputs(len(given))
    for index, value in enumerate(given):
        product.replace_input_with(index, value)
    updated = node.outputs[0]
    base.shape = updated.shape if base.shape is None else base.shape
    if updated.is_graph_output():
        base.name, updated.name = updated.name, None
    updated.replace_all_uses_with(base, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _are_there(values: Sequence[onnx_ir.Value | None], node: onnx_ir.Node, graph: onnx_ir.Graph) -> bool:
    """Whether all values are made before `node`."""
    missing = {value.producer() for value in values if value is not None} - {None}
    for earlier in graph:
        if earlier is node:
            return not missing
        missing.discard(earlier)
    return False


def _pack(model: onnx_ir.Model, kind: onnx_ir.DataType) -> None:
    """Makes one input of all operators' factors, in the order in which they are read: A of each layer, then B of each."""
    graph = model.graph
    nodes, factors = [], []
    for node in graph:
        place = FIRST.get(node.op_type, 0) + 3 if node.domain == DOMAIN else 0
        if place and len(node.inputs) > place:
            nodes.append((node, place))
            factors.append([*node.inputs[place::2], *node.inputs[place + 1 :: 2]])
    numbers = sum(_size(factor) for several in factors for factor in several)
    packed = onnx_ir.val(FACTORS, kind, ["lora_groups", "lora_numbers"])
    begin = 0
    for (node, place), several in zip(nodes, factors, strict=True):
        layers = len(several) // 2
        told = {"in": _size(several[0]), "begin": begin, "numbers": numbers, "halves": int(kind != FLOAT)}
        for name, number in told.items():
            node.attributes.add(onnx_ir.AttrInt64(f"lora_{name}", number))
        node.attributes.add(onnx_ir.AttrInt64s("lora_outputs", [_size(b) for b in several[layers:]]))
        node.resize_inputs(place + 1)
        node.replace_input_with(place, packed)
        begin += sum(map(_size, several))
    names = [factor.name for several in factors for factor in several if factor is not None]
    for value in [value for value in graph.inputs if value.name in {*names}]:
        graph.inputs.remove(value)
    graph.inputs.append(packed)
    model.metadata_props[PANEL] = str(COLUMNS)
    model.metadata_props[FACTORS] = "\n".join(name for name in names if name is not None)


def _size(factor: onnx_ir.Value | None) -> int:
    """Numbers of a factor for each rank: A [G, in, R] has in, B [G, R, out] has out."""
    assert factor is not None
    assert factor.shape is not None
    (size,) = (size for size in factor.shape[1:] if isinstance(size, int))
    return size
