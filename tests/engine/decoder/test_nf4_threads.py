"""A row's bits in nf4 depend on no other row, with as many threads as the engine takes: onnxruntime's product itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptune.engine.decoder.graphs import most_threads_of_nf4
from ptune.formats.signature import CacheLayer, Signature, Socket

INNER = 2048


def signature(*outputs: int) -> Signature:
    sockets = tuple(Socket(name=str(n), in_features=INNER, out_features=n) for n in outputs)
    layer = CacheLayer(kv_heads=1, key_dim=8, value_dim=8)
    return Signature(vocab_size=8, context=8, cache=(layer,), sockets=sockets)


def product(folder: Path, outputs: int, threads: int) -> onnxruntime.InferenceSession:
    """x [rows, INNER] times random nf4 weights."""
    chance = np.random.default_rng(0)
    packed = chance.integers(0, 256, INNER * outputs // 2, np.uint8)
    scales = chance.uniform(0.01, 0.1, INNER * outputs // 64).astype(np.float32)
    node = helper.make_node(
        "MatMulBnb4", ["x", "w", "scales"], ["y"], domain="com.microsoft",
        K=INNER, N=outputs, block_size=64, quant_type=1,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", INNER])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(packed, "w"), numpy_helper.from_array(scales, "scales")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "product.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(folder / "product.onnx", options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("outputs", [64, 128, 192, 256, 512, 1024])
def test_a_row_alone_and_in_company(tmp_path: Path, outputs: int) -> None:
    session = product(tmp_path, outputs, most_threads_of_nf4(signature(outputs, 4096)))
    x = np.random.default_rng(1).standard_normal((40, INNER)).astype(np.float32)
    together = session.run(None, {"x": x})[0]
    for rows in (2, 7, 33):
        some = session.run(None, {"x": x[:rows]})[0]
        assert np.array_equal(some, together[:rows])


def test_one_thread_is_the_least() -> None:
    assert most_threads_of_nf4(signature(32)) == 1
    assert most_threads_of_nf4(signature()) == 1
