"""Cleans up exported graphs: folds constants, merges equal computations, removes void reshapes."""

from __future__ import annotations

import onnx_ir
import onnx_ir.passes.common as passes
import torch
from onnxscript import optimizer

from ptune.export.rewrite import made_by, replace

SMALL = 1024  # elements; larger constants are weights, and not read here


def fold(model: onnx_ir.Model) -> None:
    """Folds constants and merges equal computations."""
    optimizer.fold_constants(
        model,
        onnx_shape_inference=False,
        input_size_limit=SMALL,
        output_size_limit=SMALL,
        should_fold=lambda node: False if any(map(_is_weight, node.inputs)) else None,
    )
    passes.RemoveUnusedNodesPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    shapes(model.graph)


def _is_weight(value: onnx_ir.Value | None) -> bool:
    """Whether it has no value yet; onnxscript would compute a transposition of it, however large it is."""
    raw = getattr(value.const_value, "raw", None) if value is not None else None
    return isinstance(raw, torch._subclasses.FakeTensor)


def sweep(model: onnx_ir.Model) -> None:
    """Removes unused nodes, and sorts the rest."""
    passes.RemoveUnusedNodesPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    model.graph.sort()


def shapes(graph: onnx_ir.Graph) -> None:
    """Removes reshapes and transposes that undo each other or change nothing."""
    for node in list(graph):
        if node.op_type == "Reshape":
            _reshape(node)
        elif node.op_type == "Transpose":
            _transpose(node)


def _reshape(node: onnx_ir.Node) -> None:
    source, shape = node.inputs
    inner = made_by(source, "Reshape")
    if inner is not None and (_is_plain(shape) or _keeps_ends(shape, inner)):
        node.replace_input_with(0, inner.inputs[0])
        source = node.inputs[0]
    (out,) = node.outputs
    if source is not None and source.shape is not None and source.shape == out.shape and _is_known(source):
        replace(node, source)


def _is_plain(shape: onnx_ir.Value | None) -> bool:
    """Whether a shape gives every dimension itself; a 0 would copy the input's."""
    if shape is None:
        return False
    if shape.const_value is not None:
        return 0 not in shape.const_value.numpy()
    parts = made_by(shape, "Concat")
    return parts is not None and all(part is not None and _is_plain_part(part) for part in parts.inputs)


def _is_plain_part(part: onnx_ir.Value) -> bool:
    return part.const_value is None or 0 not in part.const_value.numpy()


def _keeps_ends(shape: onnx_ir.Value | None, inner: onnx_ir.Node) -> bool:
    """Whether the zeros of a constant shape copy dimensions that the inner reshape did not change."""
    source, middle = inner.inputs[0], inner.outputs[0]
    if shape is None or shape.const_value is None or source is None:
        return False
    if source.shape is None or middle.shape is None:
        return False
    places = [place for place, dimension in enumerate(shape.const_value.numpy().tolist()) if dimension == 0]
    return all(
        place < min(len(source.shape), len(middle.shape)) and source.shape[place] == middle.shape[place]
        for place in places
    )


def _is_known(value: onnx_ir.Value) -> bool:
    assert value.shape is not None
    return all(
        isinstance(dimension, int) or getattr(dimension, "value", None) is not None
        for dimension in value.shape
    )


def _transpose(node: onnx_ir.Node) -> None:
    source = node.inputs[0]
    order = list(node.attributes["perm"].as_ints())
    inner = made_by(source, "Transpose")
    if order == sorted(order) and source is not None:
        replace(node, source)
    elif inner is not None and inner.inputs[0] is not None:
        first = inner.attributes["perm"].as_ints()
        if [first[axis] for axis in order] == sorted(order):
            replace(node, inner.inputs[0])
