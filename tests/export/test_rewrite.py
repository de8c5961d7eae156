"""Rewriting a graph keeps it writable."""

from __future__ import annotations

import onnx_ir

from ptune.export.rewrite import before, replace


def test_a_value_whose_type_is_unknown_is_replaced_without_one() -> None:
    """Phi's exporter leaves one out behind a Reshape; a type of nothing could not be written."""
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, [2])
    first = onnx_ir.node("Identity", [x])
    first.outputs[0].name, first.outputs[0].shape = "untyped", onnx_ir.Shape([2])
    last = onnx_ir.node("Identity", [first.outputs[0]])
    last.outputs[0].name, last.outputs[0].type = "y", onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    graph = onnx_ir.Graph([x], [last.outputs[0]], nodes=[first, last], opset_imports={"": 20}, name="g")
    (new,) = before(first, "Relu", [x], like=first.outputs[0])
    replace(first, new)
    written = onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=10))
    assert [node.op_type for node in written.graph.node] == ["Relu", "Identity"]
