"""The package ptune-kernels on the int4 profile: the same bits as the plain graph, for any rows, sizes and threads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.bundles import peft_folder, tiny_bundle
from support.processor import needs_vnni
from support.tiny_models import VOCAB

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.kernels import INT4, PACKAGE, Kernels, kernels
from ptune.engine.onnx_graph import open_graph
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.int4 import write_int4
from ptune.formats.bundle import BASE, FP32, Bundle

Array = NDArray[np.float32]
built = pytest.mark.skipif(
    find_spec(PACKAGE) is None,
    reason="ptune-kernels is not built: scripts/kernels does it where a C++ compiler and onnxruntime's header are",
)
KERNELS = ("plain", "avx2", "avx_vnni", "avx512")


def write_products(folder: Path, weight: Array, head: Array, *, twice: bool) -> Path:
    """A graph of the products x W in 4 bits and x H in 8. twice: W's is written as those before attention are."""
    floats = onnx_ir.DataType.FLOAT
    x = onnx_ir.val("x", floats, ["rows", "tokens", len(weight)])
    constants, nodes, outputs = [], [], []
    for name, matrix in (("w", weight), ("h", head)):
        constants.append(onnx_ir.val(name, const_value=onnx_ir.tensor(matrix, name=name)))
        nodes.append(onnx_ir.node("MatMul", [x, constants[-1]]))
        y = nodes[-1].outputs[0]
        y.name, y.dtype, y.shape = f"x{name}", floats, onnx_ir.Shape(["rows", "tokens", matrix.shape[1]])
        outputs.append(y)
    imports = {"": 20, "com.microsoft": 1}
    graph = onnx_ir.Graph([x], outputs, nodes=nodes, initializers=constants, opset_imports=imports)
    onnx_ir.save(onnx_ir.Model(graph, ir_version=10), folder / "float.onnx")
    with mock.patch("ptune.export.decoder.int4._feeds_attention", return_value=twice):
        assert write_int4(folder / "float.onnx", folder / "int4.onnx").products == 2
    return folder / "int4.onnx"


def weights(random: np.random.Generator, inputs: int, outputs: int, kind: str) -> Array:
    """A weight [inputs, outputs]: any numbers, or of blocks that have no offsets, or whose scales are halves."""
    floats = random.standard_normal((inputs, outputs)).astype(np.float32)
    if kind == "any":
        return floats
    blocks = -(-inputs // 32)
    scale = random.uniform(1e-3, 1e-1, (blocks, 1, outputs))
    if kind == "halves":
        scale = scale.astype(np.float16).astype(np.float64)
    q = random.integers(0, 16, (blocks, 32, outputs))
    q[:, 0], q[:, -1] = 0, 15
    low = -8 if kind == "no offsets" else random.uniform(-9, -6, scale.shape)
    return (scale * (q + low)).astype(np.float32).reshape(-1, outputs)[:inputs]


def own_operators() -> Kernels:
    own = kernels(INT4)
    assert own is not None
    return own


@built
@needs_vnni
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_same_bits_as_the_plain_graph(data: st.DataObject) -> None:
    """Any sizes, rows and threads, every kernel of this processor; rows of any size, with infinities."""
    import ptune_kernels

    inputs, outputs = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 100))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    kind = data.draw(st.sampled_from(["any", "no offsets", "halves"]))
    x = random.standard_normal((*data.draw(st.tuples(st.integers(1, 3), st.integers(1, 20))), inputs))
    x = (x * 10.0 ** random.uniform(-9, 9, (*x.shape[:2], 1))).astype(np.float32)
    x[0, 0, 0] = data.draw(st.sampled_from([0, 1e38, np.inf, -np.inf]))
    with tempfile.TemporaryDirectory() as folder:
        matrices = weights(random, inputs, outputs, kind), weights(random, inputs, 3 * outputs, "any")
        path = write_products(Path(folder), *matrices, twice=data.draw(st.booleans()))
        assert own_operators().rewrite(path)[1] == 2
        threads = data.draw(st.integers(1, 2))
        expected = open_graph(path, 1).run(None, {"x": x})
        for name in filter(ptune_kernels.use_kernel, KERNELS):
            found = open_graph(path, threads, kernels=own_operators()).run(None, {"x": x})
            for one, other in zip(expected, found, strict=True):
                there = ~np.isnan(one)
                assert np.array_equal(np.isnan(other), ~there), name
                assert np.array_equal(other[there], one[there]), name
    ptune_kernels.use_kernel(None)


@built
@needs_vnni
def test_weights_that_several_threads_pack_have_the_same_bits(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    matrices = (random.standard_normal((1100, outputs)).astype(np.float32) for outputs in (6010, 3005))
    path = write_products(tmp_path, *matrices, twice=False)
    x = random.standard_normal((1, 3, 1100)).astype(np.float32)
    plain, found = (
        open_graph(path, 2, kernels=which).run(None, {"x": x}) for which in (None, own_operators())
    )
    assert all(np.array_equal(*pair) for pair in zip(plain, found, strict=True))


@built
@needs_vnni
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 9), st.booleans(), st.integers(0, 2**16))
def test_the_same_bits_with_avx_vnni(
    emulated: Callable[[str], Path], inputs: int, outputs: int, rows: int, twice: bool, seed: int
) -> None:
    """Which few machines have: its instruction written out."""
    own = replace(own_operators(), library=emulated("avx_vnni"))
    random = np.random.default_rng(seed)
    x = random.standard_normal((1, rows, inputs)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        matrices = (weights(random, inputs, count, "any") for count in (outputs, 3 * outputs))
        path = write_products(Path(folder), *matrices, twice=twice)
        plain, found = (open_graph(path, 1, kernels=which).run(None, {"x": x}) for which in (None, own))
        assert all(np.array_equal(*pair) for pair in zip(plain, found, strict=True))


@built
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_a_row_is_the_same_bits_in_any_company(
    name: str, twice: bool, any_kernel: Any, tmp_path: Path
) -> None:
    if not any_kernel.use_kernel(name):
        pytest.skip(f"this processor has no {name}")
    random = np.random.default_rng(1)
    path = write_products(
        tmp_path, weights(random, 192, 300, "any"), weights(random, 192, 1000, "any"), twice=twice
    )
    session = open_graph(path, 2, kernels=own_operators())
    rows = random.standard_normal((1, 40, 192)).astype(np.float32)
    together = session.run(None, {"x": rows})
    for first, count in ((0, 1), (7, 1), (39, 1), (5, 2), (20, 13)):
        alone = session.run(None, {"x": rows[:, first : first + count]})
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one, other[:, first : first + count])


@built
@needs_vnni
@pytest.mark.parametrize("family", ["llama_tied", "gpt2", "gemma2", "granite"])
def test_an_engine_says_the_same_bits(family: str, tmp_path: Path) -> None:
    """Every product of every graph is an operator, and no MatMulNBits is left; an adapter's tokens lie beside the base's.

    What the adapter adds is left to the plain graph: own operators add it up in another order (test_kernels_adapters).
    """
    from ptune_kernels.rewrite import with_own_products

    own = replace(
        own_operators(), rewrite=partial(with_own_products, product=INT4, units=True, adapters=False)
    )
    base, _, bundle = tiny_bundle(tmp_path, family)
    path = tmp_path / "int4" / "model.onnx"
    products = write_int4(bundle.graph_path(FP32), path).products
    write_lighter(path, bundle.decoder)
    for graph in path.parent.glob("*.onnx"):
        rewritten, count = own.rewrite(graph)
        assert count == products
        assert INT4 not in {node.op_type for node in onnx.load_model_from_string(rewritten).graph.node}
    install(bundle, peft_folder(base, tmp_path / "four", spread=0.2), "four")
    bundle = Bundle.open(bundle.folder)
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCAB, length).tolist() for length in (70, 17, 1)]
    found = []
    for chosen in (None, own):
        graphs = Graphs.open(path, bundle.decoder, 2, 1, chosen)
        with closing(Engine(bundle, graphs, KvCache(bundle.decoder, 4, 128))) as engine:
            engine._registry.load_all()
            found.append([*engine.logits(ids, [BASE, "four", BASE]), *engine.logits(ids[1:], [BASE, BASE])])
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


@built
def test_weights_with_several_hard_links_are_read(tmp_path: Path) -> None:
    """As of a bundle that was copied by links; onnx_ir refuses them."""
    _, _, bundle = tiny_bundle(tmp_path, "llama")
    path = tmp_path / "int4" / "model.onnx"
    products = write_int4(bundle.graph_path(FP32), path).products
    os.link(path.with_name("model.onnx.data"), tmp_path / "another")
    assert own_operators().rewrite(path)[1] == products


@built
def test_what_is_not_just_that_product_stays(tmp_path: Path) -> None:
    """Other weights for the sums of x, another level: they are computed as the graph says."""
    random = np.random.default_rng(2)
    path = write_products(tmp_path, weights(random, 64, 8, "any"), weights(random, 64, 8, "any"), twice=True)
    x = random.standard_normal((1, 3, 64)).astype(np.float32)
    for kind in ("sums", "identity"):
        model = onnx_ir.load(path)
        name = f"int4.{kind}.64.scale"
        value = model.graph.initializers[name]
        assert value.const_value is not None
        other = value.const_value.numpy() * np.float32(0.5)
        value.const_value = onnx_ir.tensor(other, name=name)
        onnx_ir.save(model, tmp_path / "other.onnx", external_data="other.data", size_threshold_bytes=1024)
        plain = open_graph(tmp_path / "other.onnx", 1).run(None, {"x": x})
        own = open_graph(tmp_path / "other.onnx", 1, kernels=own_operators()).run(None, {"x": x})
        assert all(np.array_equal(*pair) for pair in zip(plain, own, strict=True))
    model = onnx_ir.load(path)
    for node in model.graph:
        if node.op_type == INT4:
            node.attributes.add(onnx_ir.AttrInt64("accuracy_level", 0))
    onnx_ir.save(model, tmp_path / "other.onnx", external_data="other.data", size_threshold_bytes=1024)
    assert own_operators().rewrite(tmp_path / "other.onnx")[1] == 0
