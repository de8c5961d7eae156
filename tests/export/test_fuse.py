"""Fusing changes operators, not numbers: each rule is found where it should be, and what is not recognised stays right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from support import tiny_models
from support.tiny_models import VOCAB
from support.tiny_tiles import qwen2_vl
from transformers import AutoModelForImageTextToText

from ptune.codecs.vision import FIRST_ROW
from ptune.export.decoder.trace import trace
from ptune.export.fuse import fuse
from ptune.export.fuse.norms import fuse_skips
from ptune.export.fuse.products import pack
from ptune.export.weights import ModelWeights, attach
from ptune.formats.signature import Signature
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.plain_ends import PlainEnds
from ptune.verify.reference import random_factors

LAYERS = 2
EVERYTHING = {
    "fuse_rotary": 2 * LAYERS, "fuse_rms_norms": 2 * LAYERS + 1, "fuse_skips": 2 * LAYERS, "fuse_silu": LAYERS,
    "pack": 2 * LAYERS,
}  # fmt: skip
FOUND = {
    "llama": EVERYTHING,
    "qwen3": {**EVERYTHING, "fuse_rms_norms": 4 * LAYERS + 1},  # norms of queries and keys
    "phi3": {**EVERYTHING, "pack": 0},  # has its products packed already
    "gpt2": {"fuse_rotary": 0, "fuse_rms_norms": 0, "fuse_skips": 0, "fuse_silu": 0, "pack": 0},
    "phi": {"fuse_rotary": 0},  # turns a part of each head: left as it is
    "cohere": {"fuse_rotary": 0},  # turns neighbours, not halves
}


@pytest.mark.parametrize("family", FOUND)
def test_the_same_numbers(family: str, tmp_path: Path) -> None:
    model = tiny_models.model(family)
    traced = trace(model.config)
    attach(traced, ModelWeights(model))
    signature = traced.signature
    assert isinstance(signature, Signature)
    onnx_ir.save(traced.graph, tmp_path / "plain.onnx")
    found = fuse(traced.graph)
    assert {name: found[name] for name in FOUND[family]} == FOUND[family]
    onnx_ir.save(traced.graph, tmp_path / "fused.onnx")
    ids = np.random.default_rng(0).integers(5, VOCAB, 40).tolist()
    plain, fused = (PlainGraph(tmp_path / f"{name}.onnx", signature, 1) for name in ("plain", "fused"))
    factors = random_factors(signature, 3, 0, 0.3)
    bare = plain.logprobs(ids, range(40))
    assert np.abs(bare - fused.logprobs(ids, range(40))).max() < 1e-4
    plugged = plain.logprobs(ids, range(40), factors)
    assert np.abs(plugged - fused.logprobs(ids, range(40), factors)).max() < 1e-4
    assert np.abs(plugged - bare).max() > 0.1, "the factors must do something, or this test proves nothing"


def test_turns_by_positions_in_three_dimensions(tmp_path: Path) -> None:
    """Angles of three positions are put together to one table; rows of images stand among the tokens."""
    model = AutoModelForImageTextToText.from_pretrained(qwen2_vl(tmp_path / "model"))
    traced = trace(model.config, ends=("images",))
    attach(traced, ModelWeights(model))
    signature = traced.signature
    assert isinstance(signature, Signature)
    assert signature.axes == 3
    onnx_ir.save(traced.graph, tmp_path / "plain.onnx")
    assert fuse(traced.graph)["fuse_rotary"] == EVERYTHING["fuse_rotary"]
    onnx_ir.save(traced.graph, tmp_path / "fused.onnx")
    image = [FIRST_ROW + row for row in range(6)]
    random = np.random.default_rng(0)
    rows = dict(zip(image, random.normal(size=(6, 64)).astype(np.float32), strict=True))
    ids = [*random.integers(5, VOCAB, 9).tolist(), *image, *random.integers(5, VOCAB, 9).tolist()]
    plain, fused = (PlainGraph(tmp_path / f"{name}.onnx", signature, 1) for name in ("plain", "fused"))
    wide, tall = (PlainEnds(rows=rows, grids={FIRST_ROW: grid}) for grid in ((2, 3), (3, 2)))
    expected = plain.logprobs(ids, range(len(ids)), None, wide)
    assert np.abs(expected - fused.logprobs(ids, range(len(ids)), None, wide)).max() < 1e-4
    assert np.abs(expected - fused.logprobs(ids, range(len(ids)), None, tall)).max() > 1e-3


def test_little_is_left() -> None:
    model = tiny_models.model("llama")
    traced = trace(model.config)
    attach(traced, ModelWeights(model))
    before = len(traced.graph.graph)
    fuse(traced.graph)
    kinds = Counter(node.op_type for node in traced.graph.graph)
    assert len(traced.graph.graph) < before / 3
    assert not kinds["GatherND"] - 1, "attention gathers whole tokens; the wanted ones are gathered once"
    assert kinds["Transpose"] < 6
    assert kinds["Constant"] == 0


def run_in_order(graph: onnx_ir.Graph, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes, which refuses a graph that reads a value before it is made."""
    model = onnx_ir.Model(graph, ir_version=10)
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString())
    found: list[np.ndarray] = session.run(None, inputs)
    return found


def test_a_residual_that_is_read_before_its_norm() -> None:
    kind, shape = onnx_ir.DataType.FLOAT, ["groups", "tokens", 8]
    random = np.random.default_rng(0)
    x, y = (onnx_ir.val(name, kind, shape) for name in ("x", "y"))
    weight = onnx_ir.val("weight", const_value=onnx_ir.tensor(random.random(8, np.float32), name="weight"))
    total = onnx_ir.node("Add", [x, y])
    total.outputs[0].shape, total.outputs[0].dtype = onnx_ir.Shape(shape), kind
    early = onnx_ir.node("Relu", total.outputs)
    norm = onnx_ir.node(
        "SimplifiedLayerNormalization", [total.outputs[0], weight], {"epsilon": 1e-5, "axis": -1}
    )
    last = onnx_ir.node("Add", [norm.outputs[0], early.outputs[0]])
    last.outputs[0].name, last.outputs[0].dtype, last.outputs[0].shape = "out", kind, onnx_ir.Shape(shape)
    graph = onnx_ir.Graph(
        [x, y], last.outputs, nodes=[total, early, norm, last], initializers=[weight],
        opset_imports={"": 20, "com.microsoft": 1},
    )  # fmt: skip
    inputs = {name: random.standard_normal((2, 3, 8)).astype(np.float32) for name in ("x", "y")}
    (expected,) = run_in_order(graph, inputs)
    assert fuse_skips(graph) == 1
    (found,) = run_in_order(graph, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_products_of_a_layer_that_runs_twice() -> None:
    kind = onnx_ir.DataType.FLOAT
    random = np.random.default_rng(0)
    x = onnx_ir.val("x", kind, ["tokens", 8])
    weights = [
        onnx_ir.val(name, const_value=onnx_ir.tensor(random.random((8, 4), np.float32), name=name))
        for name in ("layer.q.weight", "layer.k.weight")
    ]
    first = [onnx_ir.node("MatMul", [x, weight]) for weight in weights]
    joined = onnx_ir.node("Concat", [node.outputs[0] for node in first], {"axis": -1})
    second = [onnx_ir.node("MatMul", [joined.outputs[0], weight]) for weight in weights]
    last = onnx_ir.node("Sub", [node.outputs[0] for node in second])
    last.outputs[0].name, last.outputs[0].dtype = "out", kind
    last.outputs[0].shape = onnx_ir.Shape(["tokens", 4])
    graph = onnx_ir.Graph(
        [x], last.outputs, nodes=[*first, joined, *second, last], initializers=weights, opset_imports={"": 20}
    )
    inputs = {"x": random.standard_normal((3, 8)).astype(np.float32)}
    (expected,) = run_in_order(graph, inputs)
    assert pack(graph) == 2
    assert [*graph.initializers] == ["layer.q+k.weight", "split.4x4"]
    (found,) = run_in_order(graph, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
