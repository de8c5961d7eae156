"""Searches a traced graph for operators that mix the tokens of a step: no answer may depend on its neighbours.

A step holds tokens of many sequences, in any order and cut anywhere. Only attention keeps them apart by design; any other
operator that reads one token to compute another (a maximum over all positions, a mean over the batch, a shift by one token, a
branch on the data) makes an answer depend on other requests. Layers that keep states run along the rows of a padded view of their
own, one row a sequence (`ptune.export.decoder.states`): along a row they may do what they like, a scan included, and across rows nothing. The proof's hop "alone → in company" (`ptune.verify.decoder.company`)
measures effects that this search cannot see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import onnx_ir

from ptune.errors import BackboneError
from ptune.export.rewrite import integers
from ptune.formats.signature import STATE_INPUTS

KEEP_APART = (
    "GroupQueryAttention", "MultiHeadAttention",  # attention, which separates sequences
    "Routes", "ExpertProducts",  # rows in another order, each computed by itself (`ptune.export.decoder.experts`)
)  # fmt: skip
# Operators that carry a state along the tokens of each row of a batch: they may run over the padded view of layers with states alone.
ALONG_ROWS = ("CausalConvWithState", "LinearAttention", "GatedDeltaNet")
_BY_LENGTH_OF_DATA = ("NonZero", "Unique", "Compress", "If", "Loop", "Scan")
_OVER_ONE_AXIS = ("ArgMax", "ArgMin", "TopK", "CumSum", "Softmax", "LogSoftmax", "Hardmax")
_CONVOLUTIONS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
_ALL = 1 << 31  # end of a slice that takes everything


def check_independent(model: onnx_ir.Model, named: str, along: Sequence[int]) -> None:
    """Raises: BackboneError, naming the operator, if a graph mixes the tokens of a step.

    along: the axes of the graph's first input on which neighbours lie.
    """
    for node, how in mixing(model, along):
        raise BackboneError(
            f"{named} cannot be exported: {node.op_type} {how}, so an answer would depend on whatever else is computed"
            f" in the same step (node {node.name})"
        )


def mixing(model: onnx_ir.Model, along: Sequence[int]) -> Iterator[tuple[onnx_ir.Node, str]]:
    """Yields each operator that reads several tokens for one result, and in which way."""
    graph = model.graph
    shape = graph.inputs[0].shape
    assert shape is not None
    symbols = frozenset(word for axis in along for word in _words(shape[axis]))
    batch = _batch_of_states(graph)
    data = {value for value in graph.inputs if value is not None}
    yield from _mixing(graph, data, symbols | batch, batch)


def _batch_of_states(graph: onnx_ir.Graph) -> frozenset[str]:
    """The name of the size of the batch in the padded view of layers with states: their rows lie on that axis."""
    pad = next((value for value in graph.inputs if value.name == STATE_INPUTS[0]), None)
    return frozenset() if pad is None or pad.shape is None else frozenset(_words(pad.shape[0]))


def _mixing(
    nodes: Iterable[onnx_ir.Node], data: set[onnx_ir.Value], symbols: frozenset[str], batch: frozenset[str]
) -> Iterator[tuple[onnx_ir.Node, str]]:
    """As `mixing`, of these nodes. data: values that depend on the step. symbols: sizes of axes with neighbours; batch: of these the rows."""
    for node in nodes:
        if not any(value in data for value in node.inputs):
            continue
        if node.op_type not in ("Shape", "Size"):
            data.update(node.outputs)
        if node.op_type in KEEP_APART:
            continue
        if node.op_type == "Scan" and batch:
            if any(_is_of_tokens(dim, symbols) for dim in _scanned(node)):
                yield node, "runs over the tokens of all sequences"
            body = node.attributes["body"].as_graph()
            yield from _mixing(body, {*data, *body.inputs}, symbols, batch)
        elif node.op_type in ALONG_ROWS:
            first = node.inputs[0]
            if first is None or first.shape is None or batch.isdisjoint(_words(first.shape[0])):
                yield node, "carries a state along tokens of several sequences"
        elif node.op_type in _BY_LENGTH_OF_DATA:
            yield node, "depends on the values of all tokens"
        elif any(_is_of_tokens(dim, symbols) for dim in _combined(node)):
            yield node, "runs over the tokens of all sequences"


def _combined(node: onnx_ir.Node) -> Iterator[object]:
    """Yields the sizes of the axes along which an operator combines values."""
    first = node.inputs[0]
    if first is None or first.shape is None:
        return
    shape = [*first.shape]
    kind = node.op_type
    if kind.startswith("Reduce") and kind != "ReduceScatter":
        reduced = _constants(node, 1) or [*node.attributes.get_ints("axes", ())]
        yield from (shape[axis] for axis in reduced or range(len(shape)))
    elif kind in _OVER_ONE_AXIS:
        summed = _constants(node, 1) if kind == "CumSum" else None
        yield shape[(summed or [node.attributes.get_int("axis", -1)])[0]]
    elif kind in _CONVOLUTIONS:
        yield from shape[2:]
    elif kind == "Slice":
        starts, ends = _constants(node, 1), _constants(node, 2)
        axes = _constants(node, 3) or [*range(len(starts or ()))]
        whole = [start == 0 and end >= _ALL for start, end in zip(starts or [], ends or [], strict=False)]
        yield from (shape[axis] for axis, all_of_it in zip(axes, whole, strict=False) if not all_of_it)


def _scanned(node: onnx_ir.Node) -> Iterator[object]:
    """Yields the size of each axis along which a Scan runs."""
    count = node.attributes["num_scan_inputs"].as_int()
    axes = [*node.attributes.get_ints("scan_input_axes", ())] or [0] * count
    for value, axis in zip(node.inputs[-count:], axes, strict=True):
        if value is not None and value.shape is not None:
            yield value.shape[axis]


def _constants(node: onnx_ir.Node, place: int) -> list[int] | None:
    """An input's values, if constant."""
    return integers(node.inputs[place]) if len(node.inputs) > place else None


def _is_of_tokens(dim: object, symbols: frozenset[str]) -> bool:
    return not symbols.isdisjoint(_words(dim))


def _words(dim: object) -> list[str]:
    """The names in a symbolic size, as in s36*s70."""
    return [] if isinstance(dim, int) else re.findall(r"[A-Za-z_]\w*", str(getattr(dim, "value", dim)))
