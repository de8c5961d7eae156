"""A decoder in int4: each product loses what its activations' rounding loses, and rows do not touch each other."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.bundles import peft_folder, with_peft
from support.tiny_models import VOCAB, build, in_four_bits

from ptune.backbone.load import load
from ptune.config.recipe import Backbone
from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.errors import BackboneError
from ptune.export.blocks import BLOCK, blocks_of, bytes_of
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.int4 import write_int4
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import BASE, FP32, INT4, Bundle, Graph, hashes
from ptune.parity import compare, log_softmax

OUT, HEAD = 20, 24
WIDTHS = (96, 1100)  # the second is no multiple of 32
Array = np.ndarray


def weights(width: int) -> tuple[Array, Array]:
    random = np.random.default_rng(width)
    return random.standard_normal((width, OUT)).astype(np.float32), random.standard_normal(
        (OUT, HEAD)
    ).astype(np.float32)


@pytest.fixture(scope="module", params=WIDTHS)
def session(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, onnxruntime.InferenceSession]:
    """y = x W, z = y H, rewritten: W in 4 bits, H, the head, in 8."""
    folder, width = tmp_path_factory.mktemp("int4"), request.param
    floats = onnx_ir.DataType.FLOAT
    x = onnx_ir.Value(
        name="x", shape=onnx_ir.Shape(["rows", "tokens", width]), type=onnx_ir.TensorType(floats)
    )
    body, head = (
        onnx_ir.val(name, const_value=onnx_ir.tensor(value, name=name))
        for name, value in zip("wh", weights(width), strict=True)
    )
    first = onnx_ir.node("MatMul", [x, body])
    second = onnx_ir.node("MatMul", [first.outputs[0], head])
    for node, name, size in ((first, "y", OUT), (second, "z", HEAD)):
        node.outputs[0].name, node.outputs[0].dtype = name, floats
        node.outputs[0].shape = onnx_ir.Shape(["rows", "tokens", size])
    graph = onnx_ir.Graph(
        [x], [first.outputs[0], second.outputs[0]], nodes=[first, second], initializers=[body, head],
        opset_imports={"": 20, "com.microsoft": 1},
    )  # fmt: skip
    onnx_ir.save(onnx_ir.Model(graph, ir_version=10), folder / "float.onnx")
    written = write_int4(folder / "float.onnx", folder / "int4" / "model.onnx")
    assert (written.products, written.kept) == (2, 0)
    path = folder / "int4" / "model.onnx"
    return width, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def products(session: onnxruntime.InferenceSession, x: Array) -> tuple[Array, Array]:
    y, z = session.run(["y", "z"], {"x": x[None]})
    return y[0], z[0]


def rounding(x: Array, weight: Array) -> Array:
    """What int8 activations, a scale for each block of 32, may move x W by: half a step times the weights' sizes."""
    pad = ((0, 0), (0, -x.shape[1] % BLOCK))
    steps = np.abs(np.pad(x, pad)).reshape(len(x), -1, BLOCK).max(-1) / 127
    sizes = np.abs(np.pad(weight, pad[::-1])).reshape(-1, BLOCK, weight.shape[1]).sum(1)
    return 0.51 * steps @ sizes


@settings(max_examples=60)
@given(st.data())
def test_only_activations_are_rounded(
    session: tuple[int, onnxruntime.InferenceSession], data: st.DataObject
) -> None:
    """Against the product with what the blocks stand for, in float64."""
    width, opened = session
    x = data.draw(arrays(np.float32, (3, width), elements=st.floats(-1e4, 1e4, width=32), fill=st.just(0.5)))
    y, z = products(opened, x)
    body, head = weights(width)
    blocks = blocks_of(np.ascontiguousarray(body.T))
    steps, offset = blocks.floats(width).T.astype(np.float64), blocks.offset.T.astype(np.float64)
    by_block = np.repeat(offset, BLOCK, axis=0)[:width]
    filled = np.pad(x.astype(np.float64), ((0, 0), (0, -width % BLOCK))).reshape(3, -1, BLOCK)
    sums = filled.sum(-1)
    bound = rounding(x, steps - by_block) + 2 * rounding(x, by_block) + 2 * rounding(sums, offset)
    bound += np.abs(sums) @ (0.02 * np.abs(offset).max() + np.zeros_like(offset)) + 1e-5 * np.abs(x) @ np.abs(
        steps
    )
    assert (np.abs(y - x.astype(np.float64) @ steps) <= bound + 1e-6).all()
    q, scale = bytes_of(np.ascontiguousarray(head.T))
    rounded = ((q.astype(np.float64) - 128) * scale[..., None]).reshape(HEAD, -1)[:, :OUT].T
    bound = rounding(y, rounded) + 1e-5 * np.abs(y) @ np.abs(rounded)
    assert (np.abs(z - y.astype(np.float64) @ rounded) <= bound + 1e-6).all()


def test_a_row_is_the_same_bits_in_any_company(session: tuple[int, onnxruntime.InferenceSession]) -> None:
    width, opened = session
    random = np.random.default_rng(1)
    sizes = 10 ** random.uniform(-3, 3, (70, 1)).astype(np.float32)
    rows = random.standard_normal((70, width)).astype(np.float32) * sizes
    together = products(opened, rows)
    for start, end in ((0, 1), (7, 8), (69, 70), (3, 5), (10, 27), (1, 66)):
        for alone, among in zip(products(opened, rows[start:end]), together, strict=True):
            assert np.array_equal(alone, among[start:end])


def test_a_row_of_zeros_is_zero(session: tuple[int, onnxruntime.InferenceSession]) -> None:
    assert not products(session[1], np.zeros((3, session[0]), np.float32))[0].any()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """A model whose weights are in 4 bits already, and its bundle with an int4 graph and an adapter."""
    folder = tmp_path_factory.mktemp("int4")
    base = in_four_bits(build(folder / "model", "llama"))
    loaded = load(Backbone(model=str(base)), device="cpu")
    weights = ModelWeights(loaded.model)
    bundle = write_bundle(folder / "bundle", loaded.model.config, weights, loaded.codec, loaded.identity)
    path = bundle.folder / "graphs" / INT4 / "model.onnx"
    written = write_int4(bundle.graph_path(FP32), path)
    assert (written.products, written.kept) == (2 * 4 + 1, 1)
    write_lighter(path, bundle.decoder)
    graphs = {**bundle.manifest.graphs}
    graphs[INT4] = Graph(profile=INT4, files=hashes(bundle.folder, f"graphs/{INT4}"), kept=1.0)
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs}))
    install(bundle, peft_folder(base, folder / "four", spread=0.2), "four")
    return base, bundle


def test_base_and_adapter_say_what_peft_says(place: tuple[Path, Bundle], tmp_path: Path) -> None:
    """transformers and peft on the dequantised weights, whole sequences; what is left is the rounding of activations."""
    base, bundle = place
    adapter = bundle.adapter_path("four")
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCAB, length).tolist() for length in (40, 33, 50, 60)]
    with closing(Engine.open(bundle, profile=INT4, threads=1, replay_golden=False)) as engine:
        found = {name: engine.logits(ids, [name] * len(ids)) for name in (BASE, "four")}
    said = {}
    for name, folder in ((BASE, None), ("four", adapter)):
        model = with_peft(base, folder)
        with torch.no_grad():
            said[name] = [model(torch.tensor([one])).logits[0].numpy() for one in ids]
    for name in said:
        hop = compare(
            name, map(log_softmax, said[name]), map(log_softmax, found[name]), mean_kl=0.005, top1=0.9
        )
        assert hop.passed, hop
    apart = compare("", map(log_softmax, said[BASE]), map(log_softmax, said["four"]))
    assert apart.mean_kl is not None
    assert apart.mean_kl > 0.05  # the adapter says something else


def test_the_same_bytes_again_and_no_product_left(place: tuple[Path, Bundle], tmp_path: Path) -> None:
    bundle = place[1]
    for name in ("one", "two"):
        write_int4(bundle.graph_path(FP32), tmp_path / name / "model.onnx")
    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    graph = onnx_ir.load(tmp_path / "one" / "model.onnx").graph
    assert not [node for node in graph if node.op_type == "MatMul" and node.inputs[1].const_value is not None]
    bits = [node.attributes["bits"].as_int() for node in graph if node.op_type == "MatMulNBits"]
    products, sums, rests = 2 * 4, 2 * 4, 2  # rests: before queries, keys and values
    assert (bits.count(8), bits.count(4)) == (1, products + sums + rests)


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    x = onnx_ir.Value(name="x", shape=onnx_ir.Shape([2]), type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT))
    node = onnx_ir.node("Neg", [x])
    node.outputs[0].name = "y"
    graph = onnx_ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20})
    onnx_ir.save(onnx_ir.Model(graph, ir_version=10), tmp_path / "neg.onnx")
    with pytest.raises(BackboneError, match="nothing to make int4"):
        write_int4(tmp_path / "neg.onnx", tmp_path / "out.onnx")
