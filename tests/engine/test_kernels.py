"""The package ptune-kernels: the same bits as the plain graph, for any rows, sizes and threads; and when it is not used."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import peft_folder, tiny_bundle
from support.processor import needs_vnni
from support.tiny_models import VOCAB

from ptune.engine import kernels as finding
from ptune.engine.adapters.folder import install
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.kernels import INT4, INT8, Kernels, kernels
from ptune.engine.onnx_graph import open_graph
from ptune.errors import ParityError
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.int8 import write_int8
from ptune.formats.bundle import BASE, FP32, Bundle

built = pytest.mark.skipif(
    find_spec(finding.PACKAGE) is None,
    reason="ptune-kernels is not built: scripts/kernels does it where a C++ compiler and onnxruntime's header are",
)
KERNELS = ("plain", "avx2", "avx_vnni", "avx512", "amx")


def write_product(folder: Path, weight: np.ndarray, *, norm: bool) -> Path:
    """A graph of one product x W in int8, behind an RMSNorm or not."""
    floats = onnx_ir.DataType.FLOAT
    x = onnx_ir.val("x", floats, ["rows", "tokens", weight.shape[0]])
    constants = [onnx_ir.val("w", const_value=onnx_ir.tensor(weight, name="w"))]
    nodes, rows = [], x
    if norm:
        gain = np.linspace(-2, 3, weight.shape[0], dtype=np.float32)
        constants.append(onnx_ir.val("gain", const_value=onnx_ir.tensor(gain, name="gain")))
        made = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
        nodes = [onnx_ir.node("SimplifiedLayerNormalization", [x, constants[1]], made)]
        rows = nodes[0].outputs[0]
        rows.shape, rows.dtype = x.shape, floats
    node = onnx_ir.node("MatMul", [rows, constants[0]])
    y = node.outputs[0]
    y.name, y.dtype, y.shape = "y", floats, onnx_ir.Shape(["rows", "tokens", weight.shape[1]])
    imports = {"": 20, "com.microsoft": 1}
    graph = onnx_ir.Graph([x], [y], nodes=[*nodes, node], initializers=constants, opset_imports=imports)
    onnx_ir.save(onnx_ir.Model(graph, ir_version=10), folder / "float.onnx")
    assert write_int8(folder / "float.onnx", folder / "int8.onnx") == 1
    return folder / "int8.onnx"


@built
@needs_vnni
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_same_bits_as_the_plain_graph(data: st.DataObject) -> None:
    """Any sizes, rows and threads, every kernel of this processor; rows of any size, with infinities."""
    import ptune_kernels

    own = kernels()
    assert own is not None
    inputs, outputs = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 200))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    weight = random.standard_normal((inputs, outputs)).astype(np.float32)
    x = random.standard_normal((*data.draw(st.tuples(st.integers(1, 3), st.integers(1, 45))), inputs))
    x = (x * 10.0 ** random.uniform(-9, 9, (*x.shape[:2], 1))).astype(np.float32)
    x[0, 0, 0] = data.draw(st.sampled_from([0, 1e38, np.inf, -np.inf]))
    with tempfile.TemporaryDirectory() as folder:
        path = write_product(Path(folder), weight, norm=data.draw(st.booleans()))
        threads = data.draw(st.integers(1, 2))
        with np.errstate(all="ignore"):
            expected = open_graph(path, 1).run(None, {"x": x})[0]
            for name in filter(ptune_kernels.use_kernel, KERNELS):
                found = open_graph(path, threads, kernels=own).run(None, {"x": x})[0]
                there = ~np.isnan(expected)
                assert np.array_equal(np.isnan(found), ~there), name
                assert np.array_equal(found[there].view(np.uint32), expected[there].view(np.uint32)), name
    ptune_kernels.use_kernel(None)


@built
@needs_vnni
def test_weights_that_several_threads_pack_have_the_same_bits_in_large_pages_too(tmp_path: Path) -> None:
    """Over 4 MB of them, the last panel and the last tile half filled."""
    import ptune_kernels

    random = np.random.default_rng(3)
    path = write_product(tmp_path, random.standard_normal((1030, 4101)).astype(np.float32), norm=False)
    x = random.standard_normal((1, 5, 1030)).astype(np.float32)
    expected = open_graph(path, 1).run(None, {"x": x})[0]
    session = open_graph(path, 2, kernels=kernels())
    assert np.array_equal(session.run(None, {"x": x})[0], expected)
    while ptune_kernels.merge_page():
        assert np.array_equal(session.run(None, {"x": x})[0], expected)
    assert not ptune_kernels.merge_page()
    assert np.array_equal(session.run(None, {"x": x})[0], expected)


@built
@pytest.mark.parametrize("name", KERNELS)
def test_a_row_is_the_same_bits_in_any_company(name: str, any_kernel: Any, tmp_path: Path) -> None:
    if not any_kernel.use_kernel(name):
        pytest.skip(f"this processor has no {name}")
    random = np.random.default_rng(1)
    path = write_product(tmp_path, random.standard_normal((192, 1000)).astype(np.float32), norm=False)
    session = open_graph(path, 2, kernels=kernels())
    rows = random.standard_normal((1, 130, 192)).astype(np.float32)
    together = session.run(None, {"x": rows})[0]
    for first, count in ((0, 1), (7, 1), (129, 1), (5, 2), (64, 33)):
        alone = session.run(None, {"x": rows[:, first : first + count]})[0]
        assert np.array_equal(alone, together[:, first : first + count])


@built
@needs_vnni
@pytest.mark.parametrize("name", ["avx_vnni", "amx"])
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 50), st.integers(0, 2**16))
def test_the_same_bits_with_instructions_that_few_machines_have(
    emulated: Callable[[str], Path], name: str, inputs: int, outputs: int, rows: int, seed: int
) -> None:
    """One block of rows or several, one panel or two, filled or not."""
    own = kernels()
    assert own is not None
    own = replace(own, library=emulated(name))
    random = np.random.default_rng(seed)
    x = random.standard_normal((1, rows, inputs)).astype(np.float32)
    weight = random.standard_normal((inputs, outputs)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = write_product(Path(folder), weight, norm=False)
        plain, found = (open_graph(path, 1, kernels=which) for which in (None, own))
        assert np.array_equal(plain.run(None, {"x": x})[0], found.run(None, {"x": x})[0])


@built
@needs_vnni
@pytest.mark.parametrize("family", ["llama_tied", "gpt2", "gemma2", "granite"])
def test_an_engine_says_the_same_bits(family: str, tmp_path: Path) -> None:
    """Every product of every graph is an operator; an adapter's tokens lie beside the base's.

    What the adapter adds and attention are left to the plain graph: own operators add up in another order
    (test_kernels_adapters, test_kernels_attention).
    """
    own = products_alone(INT8)
    changes: dict[str, Any] = {"logits_scaling": 3.0} if family == "granite" else {}
    base, _, bundle = tiny_bundle(tmp_path, family, **changes)
    path = tmp_path / "int8" / "model.onnx"
    products = write_int8(bundle.graph_path(FP32), path)
    write_lighter(path, bundle.decoder)
    for graph in path.parent.glob("*.onnx"):
        assert own.rewrite(graph)[1] == products
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
@pytest.mark.parametrize(("name", "right"), [("avx512", False), ("avx2", True)])
def test_without_avx512_own_products_are_compared_with_plain_cpp(
    name: str, right: bool, any_kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime computes otherwise there: without VNNI its sums of bytes are limited to 16 bits."""
    from ptune_kernels import check

    class Limited:
        def __init__(self, session: Any) -> None:
            self.session = session

        def run(self, outputs: None, inputs: dict[str, Any]) -> list[Any]:
            return [np.nextafter(y, np.float32(0)) for y in self.session.run(outputs, inputs)]

    from ptune_kernels.session import session

    monkeypatch.setattr(
        check, "session", lambda graph: session(graph) if b"ptune" in graph else Limited(session(graph))
    )
    if not any_kernel.use_kernel(name):
        pytest.skip(f"this processor has no {name}")
    for product in (INT8, INT4):
        assert (check.differs(product) is None) == right
    assert any_kernel.kernel() == name


@built
def test_answers_that_are_not_the_golden_ones_leave_products_to_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a bundle that was exported without the package on a processor whose onnxruntime has other bits."""

    class Compared:
        def __init__(self, engine: Engine, content: dict[str, Any]) -> None:
            self._own = engine.form is not None and engine.form.other_bits

        def require_same(self) -> float:
            if self._own:
                raise ParityError("a log-probability is off")
            return 0.0

        def require_near(self) -> None:
            pass

    _, _, bundle = tiny_bundle(tmp_path, "llama")
    there = finding.kernels_for(bundle.graph_path())
    assert there is not None
    own = replace(there, name="avx2")
    monkeypatch.setattr(
        "ptune.engine.decoder.forms.kernels_for", lambda path, exact: own.exact() if exact else own
    )
    monkeypatch.setattr("ptune.engine.decoder.engine.Replay", Compared)
    monkeypatch.setattr("ptune.engine.decoder.engine.read_json", lambda file: {})
    with caplog.at_level(logging.WARNING), closing(Engine.open(bundle, threads=1)) as engine:
        assert engine.form is not None
        assert not engine.form.other_bits
        assert not engine._step.graphs.own_attention
    assert "is not used: a log-probability is off" in caplog.text


@built
def test_weights_are_packed_once_for_all_graphs(tmp_path: Path) -> None:
    """Their operators name the same bytes of the same file; other bundles' name others."""
    names = []
    for folder in ("one", "two"):
        path = write_product(tmp_path, np.ones((64, 64), np.float32), norm=False)
        (tmp_path / folder).mkdir()
        for file in ("int8.onnx", "int8.onnx.data"):
            (tmp_path / folder / file).write_bytes((tmp_path / file).read_bytes())
        path = tmp_path / folder / "int8.onnx"
        (path.with_name("beside.onnx")).write_bytes(path.read_bytes())
        names += [shared_as(graph) for graph in (path, path.with_name("beside.onnx"))]
    assert names[0] == names[1] != names[2] == names[3]
    assert all(names)


def products_alone(product: str) -> Kernels:
    """Own operators for products and not for adapters."""
    from ptune_kernels.rewrite import with_own_products

    own = kernels(product)
    assert own is not None
    return replace(own, rewrite=partial(with_own_products, product=product, units=True, adapters=False))


def shared_as(path: Path) -> str:
    own = kernels()
    assert own is not None
    model = onnx_ir.from_proto(onnx.load_model_from_string(own.rewrite(path)[0]))
    return next(node for node in model.graph if node.domain == "ptune").attributes["shared_as"].as_string()


@built
def test_what_is_not_just_that_product_stays(tmp_path: Path) -> None:
    """Another zero point, another share of the low bytes, a byte that is used elsewhere, too."""
    own = kernels()
    assert own is not None
    path = write_product(tmp_path, np.ones((8, 4), np.float32), norm=False)
    for name, value in (
        ("int8.zero", np.uint8(127)),
        ("int8.shares", np.array([[1, 1 / 128]], np.float32)),
        ("int8.middle", np.uint16(32768)),
        ("int8.in_steps", np.float32(1 / 128)),
    ):
        model = onnx_ir.load(path)
        model.graph.initializers[name].const_value = onnx_ir.tensor(np.asarray(value), name=name)
        onnx_ir.save(model, tmp_path / "other.onnx")
        assert own.rewrite(tmp_path / "other.onnx")[1] == 0, name


def test_a_graph_that_cannot_be_rewritten_is_used_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> tuple[bytes, int]:
        raise ValueError("an operator of tomorrow")

    path = write_product(tmp_path, np.ones((8, 4), np.float32), norm=False)
    session = open_graph(path, 1, kernels=Kernels("avx512", tmp_path, fail))
    assert session.run(None, {"x": np.ones((1, 2, 8), np.float32)})[0].shape == (1, 2, 4)
    assert "an operator of tomorrow" in caplog.text


def test_without_the_package_the_graph_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.cache_clear()
    monkeypatch.setattr(finding, "find_spec", lambda name: None)
    assert kernels() is None
    kernels.cache_clear()


def test_a_graph_without_such_products_needs_no_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph, asked = tmp_path / "model.onnx", list[str]()
    monkeypatch.setattr(finding, "kernels", asked.append)
    for operator in ("MatMul", "MatMulIntegerToFloat", "MatMulNBits", "GroupQueryAttention"):
        graph.write_bytes(operator.encode())
        finding.kernels_for(graph)
    assert asked == ["MatMulIntegerToFloat", "MatMulNBits", "GroupQueryAttention"]


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ({"INTERFACE": 0}, "interface 0"),
        ({"kernel": lambda: "plain"}, "no kernel for this processor"),
        ({"differs": lambda product: "2 rows give other bits"}, "2 rows give other bits"),
        ({"kernel": lambda: 1 / 0}, "cannot be loaded"),
    ],
)
def test_a_package_that_is_not_used_is_named(
    package: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = {"INTERFACE": finding.INTERFACE, "PLAIN": "plain", "kernel": lambda: "avx512", "LIBRARY": Path("l"),
             "differs": lambda product: None, "with_own_products": lambda path, product, units, adapters, attends: (b"", 0),
             "units_are_the_same": lambda: True} | package  # fmt: skip
    monkeypatch.setattr(finding, "find_spec", lambda name: object())
    monkeypatch.setattr(finding, "import_module", lambda name: SimpleNamespace(**whole))
    kernels.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert kernels() is None
    assert said in caplog.text
    kernels.cache_clear()
