"""Folds batch normalisation into the convolution before it: exact up to rounding, and saves one pass over memory.

BN(y) = s * y + t per channel, with s and t constant after training (Jacob et al. 2018, section 3.2). So a convolution's
weights are multiplied by s, and its bias becomes s * b + t. With an adapter beside the convolution, BN(conv(x) + B(...)),
the factor B, an input of the graph, is multiplied by s in the graph. onnxruntime itself folds only without sockets.
"""

from __future__ import annotations

import numpy as np
import onnx_ir
from numpy.typing import NDArray

Array = NDArray[np.floating]


def fold_batch_norms(model: onnx_ir.Model) -> int:
    """Folds every batch normalisation of only a convolution's output. Returns their number."""
    graph, folded = model.graph, 0
    for node in list(graph):
        if node.op_type == "BatchNormalization" and (convs := _before(node)):
            scale, shift = _scale_and_shift(node)
            for conv in convs:
                _scaled(graph, conv, scale, shift)
                shift = np.zeros_like(shift)  # added once
            source, result = node.inputs[0], node.outputs[0]
            assert source is not None
            result.replace_all_uses_with(source, replace_graph_outputs=True)
            graph.remove(node, safe=True)
            folded += 1
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return folded


def _before(norm: onnx_ir.Node) -> list[onnx_ir.Node]:
    """The convolution, or the summed convolutions, in front of a batch normalisation; the base's first.

    [] if something else is in front of it, or also reads their output.
    """
    if any(value is None or value.const_value is None for value in norm.inputs[1:5]):
        return []
    source = _alone(norm.inputs[0])
    if source is None:
        return []
    parts = [source] if source.op_type == "Conv" else []
    if source.op_type == "Add":
        parts = [part for part in map(_alone, source.inputs) if part is not None and part.op_type == "Conv"]
    if source.op_type == "Add" and len(parts) < 2:
        return []
    parts.sort(key=lambda conv: not _is_constant(conv.inputs[1]))
    if not parts or not _is_constant(parts[0].inputs[1]):
        return []
    return parts if all(len(part.inputs) < 3 or _is_constant(part.inputs[2]) for part in parts) else []


def _alone(value: onnx_ir.Value | None) -> onnx_ir.Node | None:
    """The node that makes a value with a single reader."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return value.producer()


def _is_constant(value: onnx_ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _scale_and_shift(norm: onnx_ir.Node) -> tuple[Array, Array]:
    """Computes s and t in float64."""
    gamma, beta, mean, variance = (_array(value).astype(np.float64) for value in norm.inputs[1:5])
    attribute = norm.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (1e-5 if attribute is None else attribute.as_float()))
    return scale, beta - mean * scale


def _scaled(graph: onnx_ir.Graph, conv: onnx_ir.Node, scale: Array, shift: Array) -> None:
    """Multiplies a convolution's output by `scale` and adds `shift`; its weight is a constant or an input of the graph."""
    weight = conv.inputs[1]
    assert weight is not None
    column = scale.reshape(-1, 1, 1, 1)
    if _is_constant(weight):
        _replace(graph, conv, 1, _array(weight) * column)
    else:
        factor = _constant(graph, f"{weight.name}.scale", column)
        product = onnx_ir.node("Mul", [weight, factor])
        product.outputs[0].name = f"{weight.name}.scaled"
        product.outputs[0].dtype = onnx_ir.DataType.FLOAT
        graph.insert_before(conv, product)
        conv.replace_input_with(1, product.outputs[0])
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    whole = shift + (_array(bias) * scale if bias is not None else 0.0)
    if whole.any():
        _replace(graph, conv, 2, whole)


def _replace(graph: onnx_ir.Graph, conv: onnx_ir.Node, place: int, array: Array) -> None:
    weight = conv.inputs[1]
    assert weight is not None
    value = _constant(graph, f"{weight.name}.{'folded' if place == 1 else 'bias'}", array)
    if place < len(conv.inputs):
        conv.replace_input_with(place, value)
    else:
        conv.resize_inputs(place + 1)
        conv.replace_input_with(place, value)


def _constant(graph: onnx_ir.Graph, name: str, array: NDArray[np.floating]) -> onnx_ir.Value:
    """Adds a constant to the graph."""
    tensor = onnx_ir.tensor(np.ascontiguousarray(array, np.float32), name=name)
    value = onnx_ir.Value(
        name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _array(value: onnx_ir.Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
