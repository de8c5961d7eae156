"""Softplus in the graph: PyTorch's numbers, and the same bits wherever a number lies."""

from __future__ import annotations

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.export.softplus import spell_out


def session(*, spelled: bool) -> onnxruntime.InferenceSession:
    free, kind = onnx_ir.Shape(["rows", "width"]), onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    x = onnx_ir.Value(name="x", shape=free, type=kind)
    node = onnx_ir.node("Softplus", [x])
    (y,) = node.outputs
    y.name, y.shape, y.type = "y", free, kind
    graph = onnx_ir.Graph([x], [y], nodes=[node], opset_imports={"": 20})
    if spelled:
        assert spell_out(graph) == 1
    proto = onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=10))
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def spelled() -> onnxruntime.InferenceSession:
    return session(spelled=True)


def positions_matter(one: onnxruntime.InferenceSession, x: np.ndarray) -> bool:
    (together,) = one.run(None, {"x": x})
    alone = [one.run(None, {"x": row[None]})[0][0] for row in x]
    return not np.array_equal(np.array(alone), together)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_number_has_its_own_bits(
    spelled: onnxruntime.InferenceSession, rows: int, width: int, seed: int
) -> None:
    x = np.random.default_rng(seed).normal(0, 4, (rows, width)).astype(np.float32)
    assert not positions_matter(spelled, x)


def test_onnxruntimes_own_does_not_have_them() -> None:
    """Where this fails, `ptune.export.softplus` has become unnecessary."""
    x = np.random.default_rng(0).normal(0, 4, (41, 3)).astype(np.float32)
    assert positions_matter(session(spelled=False), x)


def test_it_is_pytorchs(spelled: onnxruntime.InferenceSession) -> None:
    x = np.concatenate([np.linspace(-80, 80, 20_001), [0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30]]).astype(
        np.float32
    )[None]
    (found,) = spelled.run(None, {"x": x})
    expected = torch.nn.functional.softplus(torch.tensor(x, dtype=torch.float64)).numpy()
    assert np.abs(found / expected - 1)[expected > 1e-30].max() < 5e-7
    assert np.isnan(spelled.run(None, {"x": np.array([[np.nan]], np.float32)})[0]).all()
