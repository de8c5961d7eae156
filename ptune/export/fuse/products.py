"""Joins linear layers of one input (queries, keys and values; gate and up) into one product with a split."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from ptune.export.rewrite import before, constant, lazily, replace


def pack(graph: onnx_ir.Graph) -> int:
    """Joins products of the same input with constant weights. Adapters and biases stay separate."""
    groups: dict[onnx_ir.Value, list[onnx_ir.Node]] = defaultdict(list)
    for node in graph:
        x = node.inputs[0] if node.op_type == "MatMul" else None
        if x is not None and is_weight(node.inputs[1]):
            groups[x].append(node)
    packed = [nodes for nodes in groups.values() if len(nodes) > 1]
    for nodes in packed:
        _pack(graph, nodes)
    return len(packed)


def is_weight(value: onnx_ir.Value | None) -> bool:
    """Whether a value is a constant matrix."""
    return value is not None and value.const_value is not None and len(value.const_value.shape) == 2


def _pack(graph: onnx_ir.Graph, nodes: list[onnx_ir.Node]) -> None:
    tensors = [tensor for node in nodes if (tensor := _tensor(node)) is not None]
    widths = [int(tensor.shape[1]) for tensor in tensors]
    first, joined = nodes[0], _joined(tensors)
    if joined.name in graph.initializers:  # of layers that run several times
        joined = graph.initializers[joined.name]
    else:
        graph.register_initializer(joined)
    (product,) = before(first, "MatMul", [first.inputs[0], joined])
    out = first.outputs[0]
    if out.shape is not None:
        product.shape, product.dtype = onnx_ir.Shape([*out.shape[:-1], sum(widths)]), out.dtype
    sizes = constant(graph, f"split.{'x'.join(map(str, widths))}", np.array(widths))
    pieces = before(first, "Split", [product, sizes], {"axis": -1}, outputs=len(nodes))
    for node, piece in zip(nodes, pieces, strict=True):
        replace(node, piece)
    for tensor in tensors:
        weight = graph.initializers[str(tensor.name)]
        if not weight.uses():
            del graph.initializers[str(tensor.name)]


def _tensor(node: onnx_ir.Node) -> onnx_ir.TensorProtocol | None:
    weight = node.inputs[1]
    return None if weight is None else weight.const_value


def _joined(tensors: list[onnx_ir.TensorProtocol]) -> onnx_ir.Value:
    """Concatenates to [in, out1 + out2 + …] lazily. Its name is the first's plus the last parts of the others'."""

    def read() -> NDArray[np.generic]:
        return np.concatenate([tensor.numpy() for tensor in tensors], axis=1)

    names = [str(tensor.name).removesuffix(".weight") for tensor in tensors]
    name = f"{'+'.join([names[0], *(one.rpartition('.')[2] for one in names[1:])])}.weight"
    return lazily(name, [int(tensors[0].shape[0]), sum(int(tensor.shape[1]) for tensor in tensors)], read)
