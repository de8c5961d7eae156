"""A decoder in int8: each product loses what its weights' rounding loses and no more, and rows do not touch each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.bundles import tiny_bundle

from ptune.errors import BackboneError
from ptune.export.decoder.int8 import write_int8
from ptune.export.rounding import column_scales
from ptune.formats.bundle import FP32

IN, OUT = 48, 20
WEIGHT = np.random.default_rng(0).standard_normal((IN, OUT)).astype(np.float32)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    """One product x W, rewritten."""
    folder = tmp_path_factory.mktemp("int8")
    floats = onnx_ir.DataType.FLOAT
    x = onnx_ir.Value(name="x", shape=onnx_ir.Shape(["rows", "tokens", IN]), type=onnx_ir.TensorType(floats))
    weight = onnx_ir.val("w", const_value=onnx_ir.tensor(WEIGHT, name="w"))
    node = onnx_ir.node("MatMul", [x, weight])
    node.outputs[0].name, node.outputs[0].dtype = "y", floats
    node.outputs[0].shape = onnx_ir.Shape(["rows", "tokens", OUT])
    graph = onnx_ir.Graph(
        [x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 20, "com.microsoft": 1}
    )
    onnx_ir.save(onnx_ir.Model(graph, ir_version=10), folder / "float.onnx")
    assert write_int8(folder / "float.onnx", folder / "int8" / "model.onnx") == 1
    return onnxruntime.InferenceSession(folder / "int8" / "model.onnx", providers=["CPUExecutionProvider"])


def product(session: onnxruntime.InferenceSession, x: np.ndarray) -> np.ndarray:
    return session.run(["y"], {"x": x[None]})[0][0]


@settings(max_examples=60)
@given(arrays(np.float32, (5, IN), elements=st.floats(-1e4, 1e4, width=32)))
def test_two_parts_hold_an_activation_to_a_sixty_thousandth(
    session: onnxruntime.InferenceSession, x: np.ndarray
) -> None:
    """Against the product with the rounded weights in float64: what is left is the rounding of x alone."""
    scale = column_scales(WEIGHT)
    rounded = np.clip(np.rint(WEIGHT / scale), -127, 127).astype(np.float64) * scale
    exact = x.astype(np.float64) @ rounded
    size = np.sqrt(np.square(x, dtype=np.float64).sum(-1, keepdims=True)) + 1e-5  # what the largest could be
    bound = size / 127 / 254 * np.abs(rounded).sum(0) + 1e-5 * np.abs(exact) + 1e-9
    assert (np.abs(product(session, x) - exact) <= bound).all()


def test_a_row_is_the_same_bits_in_any_company(session: onnxruntime.InferenceSession) -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((33, IN)).astype(np.float32) * 10 ** random.uniform(-3, 3, (33, 1)).astype(
        np.float32
    )
    together = product(session, rows)
    for index in (0, 7, 32):
        assert np.array_equal(product(session, rows[index : index + 1])[0], together[index])


def test_a_row_of_zeros_is_zero(session: onnxruntime.InferenceSession) -> None:
    assert not product(session, np.zeros((3, IN), np.float32)).any()


def test_the_same_bytes_again_and_no_product_left(tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path, "llama_tied")
    for name in ("one", "two"):
        assert write_int8(bundle.graph_path(FP32), tmp_path / name / "model.onnx") == 2 * 4 + 1
    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    graph = onnx_ir.load(tmp_path / "one" / "model.onnx").graph
    left = [node for node in graph if node.op_type == "MatMul" and node.inputs[1].const_value is not None]
    assert not left
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in graph) == 9


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    x = onnx_ir.Value(name="x", shape=onnx_ir.Shape([2]), type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT))
    node = onnx_ir.node("Neg", [x])
    node.outputs[0].name = "y"
    graph = onnx_ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20})
    onnx_ir.save(onnx_ir.Model(graph, ir_version=10), tmp_path / "neg.onnx")
    with pytest.raises(BackboneError, match="nothing to make int8"):
        write_int8(tmp_path / "neg.onnx", tmp_path / "out.onnx")
