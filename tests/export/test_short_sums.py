"""Sums of a few numbers a token: the same bits wherever its row lies, where onnxruntime's own are not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ptune.export.short_sums import pad

TOKENS = 200


def graph(width: int, axis: int) -> onnx.ModelProto:
    made = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [axis])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def padded(width: int, axis: int = -1) -> tuple[onnx.ModelProto, int]:
    model = onnx_ir.from_proto(graph(width, axis))
    count = pad(model.graph)
    return onnx_ir.to_proto(model), count


def sums(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": rows})
    return np.asarray(found)


def alone(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    """Each row in memory of its own."""
    return np.concatenate([sums(model, rows[at : at + 1].copy()) for at in range(len(rows))])


@pytest.mark.parametrize("width", [5, 6, 10, 15])
def test_a_row_has_the_same_bits_wherever_it_lies(width: int) -> None:
    rows = np.random.default_rng(width).random((TOKENS, width), np.float32)
    model, count = padded(width)
    assert count == 1
    together = sums(model, rows)
    assert np.array_equal(together, alone(model, rows))
    np.testing.assert_allclose(together[:, 0], rows.sum(-1, dtype=np.float64), rtol=1e-6)
    plain = graph(width, -1)
    assert not np.array_equal(sums(plain, rows), alone(plain, rows)), "nothing would be wrong without zeros"


@pytest.mark.parametrize(("width", "axis"), [(3, -1), (4, -1), (8, 1), (64, -1), (10, 0)])
def test_what_has_the_same_bits_already_is_left(width: int, axis: int) -> None:
    model, count = padded(width, axis)
    assert count == 0
    assert [node.op_type for node in model.graph.node] == ["ReduceSum"]
