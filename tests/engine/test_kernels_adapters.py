"""The package ptune-kernels and adapters: what their factors say, and the same bits in any company."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import peft_folder, tiny_bundle
from support.tiny_models import VOCAB

from ptune.engine import kernels as finding
from ptune.engine.adapters.folder import install
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.kernels import Kernels, kernels_for
from ptune.engine.options import EngineOptions
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.int4 import write_int4
from ptune.export.decoder.int8 import write_int8
from ptune.formats.bundle import BASE, FP32, Bundle
from ptune.formats.signature import EndKind
from ptune.parity import log_softmax

Array = np.ndarray[Any, Any]
built = pytest.mark.skipif(
    find_spec(finding.PACKAGE) is None,
    reason="ptune-kernels is not built: scripts/kernels does it where a C++ compiler and onnxruntime's header are",
)
EPSILON = float(np.finfo(np.float32).eps)
# How far log-probabilities may be from the plain graph's: a rounding of activations may fall otherwise. One of int4, to eight bits
# in blocks of 32, moves single ones far; there the mean KL counts, a fiftieth of what the profile itself may have.
CLOSE = {FP32: 1e-4, "int8": 0.02}
CLOSE_KL = 1e-3


def check_close(found: Array, expected: Array, profile: str) -> None:
    one, other = log_softmax(expected), log_softmax(found)
    if profile in CLOSE:
        assert np.abs(one - other).max() < CLOSE[profile]
    else:
        assert (np.exp(one) * (one - other)).sum(axis=-1).mean() < CLOSE_KL


def arrays_of(data: st.DataObject, *, halves: bool, ones: bool) -> dict[str, Array]:
    """Inputs of an update of any size; some rows have an adapter, with biases or without."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    groups, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    inputs, outputs = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 300))
    rank, shared = data.draw(st.integers(1, 70)), data.draw(st.booleans())
    shapes = {
        "base": (groups, tokens, outputs), "x": (groups, tokens, inputs),
        "A": (1 if shared else groups, inputs, rank), "B": (1 if shared else groups, rank, outputs),
    }  # fmt: skip
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["x"] *= 10.0 ** random.uniform(-6, 6, (groups, tokens, 1)).astype(np.float32)
    chosen = random.integers(0, 2, (groups, tokens, 1)).astype(np.float32)
    arrays["lora_mask"] = np.broadcast_to(chosen, (groups, tokens, rank)).copy()
    if ones:
        arrays["lora_ones"] = np.zeros((groups, tokens, rank), np.float32)
        arrays["lora_ones"][..., 0] = chosen[..., 0] * random.integers(0, 2, (groups, tokens))
    if halves:
        arrays |= {name: arrays[name].astype(np.float16).astype(np.float32) for name in "AB"}
    return arrays


@built
@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans(), st.integers(1, 2))
def test_an_update_is_what_the_plain_graph_says(data: st.DataObject, halves: bool, threads: int) -> None:
    """Up to rounding; rows without an adapter keep their bits; every kernel of this processor gives the same."""
    import onnx_ir
    import onnxruntime
    import ptune_kernels
    from ptune_kernels import low_rank
    from ptune_kernels.check_low_rank import packed, plain
    from ptune_kernels.rewrite import written

    ones = not halves and data.draw(st.booleans())
    arrays = arrays_of(data, halves=halves, ones=ones)
    model = plain(arrays["x"].shape[-1], arrays["base"].shape[-1], ones=ones)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    expected = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString(), options).run(
        None, arrays
    )[0]
    assert low_rank.rewrite(model, halves=halves) == 1
    options.register_custom_ops_library(str(ptune_kernels.LIBRARY))
    graph, given = written(model), packed(arrays, np.float16 if halves else np.float32)
    found = [
        onnxruntime.InferenceSession(graph, options).run(None, given)[0]
        for _ in filter(ptune_kernels.use_kernel, ("plain", "avx2", "avx512"))
    ]
    ptune_kernels.use_kernel(None)
    size = {name: np.abs(array).astype(np.float64) for name, array in arrays.items()}
    low = size["x"] @ size["A"] + size.get("lora_ones", 0)
    most = size["base"] + low @ size["B"]
    roundings = sum(arrays["A"].shape[1:]) + 2  # of each of the two, by half an epsilon
    assert (np.abs(found[0] - expected) <= roundings * EPSILON * most).all()
    without = arrays["lora_mask"][..., 0] == 0
    assert np.array_equal(found[0][without], arrays["base"][without])
    assert all(np.array_equal(one, found[0]) for one in found)


def three_adapters(folder: Path, family: str, ends: Sequence[EndKind] = ()) -> Bundle:
    """A bundle with adapters of different ranks and layers."""
    changes: dict[str, Any] = {"logits_scaling": 3.0} if family == "granite" else {}
    base, _, bundle = tiny_bundle(folder, family, ends=ends, **changes)
    biased: dict[str, Any] = {"lora_bias": True} if "biases" in ends else {}
    narrow = {"r": 2, "target_modules": r".*\.1\..*(q_proj|c_attn)"}
    for name, options in {"one": {"r": 4}, "two": {"r": 19, **biased}, "three": narrow}.items():
        install(bundle, peft_folder(base, folder / name, seed=len(name), spread=0.2, **options), name)
    return Bundle.open(bundle.folder)


def graph_of(bundle: Bundle, profile: str, folder: Path) -> Path:
    if profile == FP32:
        return bundle.graph_path(FP32)
    path = folder / profile / "model.onnx"
    (write_int8 if profile == "int8" else write_int4)(bundle.graph_path(FP32), path)
    write_lighter(path, bundle.decoder)
    return path


def opened(bundle: Bundle, path: Path, own: Kernels | None, *, chunk: int = 256) -> Engine:
    graphs = Graphs.open(path, bundle.decoder, 2, 1, own)
    engine = Engine(bundle, graphs, KvCache(bundle.decoder, 6, 128), EngineOptions(prefill_chunk=chunk))
    engine._registry.load_all()
    return engine


def check_engine(bundle: Bundle, path: Path, profile: str, *, exact: bool = True) -> None:
    """Adapters alone, with each other and beside the base, in prompts that are computed at once or in pieces.

    exact: with onnxruntime's attention, so that the base has the bits of the plain graph.
    """
    own = kernels_for(path, exact=exact)
    assert own is not None
    random = np.random.default_rng(0)
    names = [BASE, "one", "two", "one", "three", BASE]
    ids = [random.integers(5, VOCAB, length).tolist() for length in (50, 17, 1, 33, 9, 1)]
    with closing(opened(bundle, path, None)) as engine:
        plain = engine.logits(ids, names)
    with closing(opened(bundle, path, own)) as engine:
        together = engine.logits(ids, names)
        alone = [engine.logits([tokens], [name])[0] for tokens, name in zip(ids, names, strict=True)]
    with closing(opened(bundle, path, own, chunk=7)) as engine:
        pieces = engine.logits(ids, names)
    for name, expected, found, single, piece in zip(names, plain, together, alone, pieces, strict=True):
        assert np.array_equal(found, single), name
        assert np.array_equal(found, piece), name
        if exact and name == BASE:
            assert np.array_equal(found, expected)
        else:
            check_close(found, expected, profile)


@built
@pytest.mark.parametrize("profile", [FP32, "int8", "int4"])
@pytest.mark.parametrize("family", ["llama_tied", "qwen2", "gpt2", "gemma2", "phi", "granite"])
def test_the_same_bits_in_any_company(family: str, profile: str, tmp_path: Path) -> None:
    bundle = three_adapters(tmp_path, family)
    check_engine(bundle, graph_of(bundle, profile, tmp_path), profile)


@built
@pytest.mark.parametrize("profile", [FP32, "int8"])
@pytest.mark.parametrize("family", ["llama_tied", "gemma2"])
def test_the_same_bits_with_own_attention(family: str, profile: str, tmp_path: Path) -> None:
    bundle = three_adapters(tmp_path, family)
    path = graph_of(bundle, profile, tmp_path)
    assert Graphs.open(path, bundle.decoder, 1, kernels=kernels_for(path)).own_attention
    check_engine(bundle, path, profile, exact=False)


@built
@pytest.mark.parametrize("profile", [FP32, "int8", "int4"])
def test_heads_and_biases_too(profile: str, tmp_path: Path) -> None:
    bundle = three_adapters(tmp_path, "llama_tied", ("head", "biases"))
    check_engine(bundle, graph_of(bundle, profile, tmp_path), profile)


@built
@pytest.mark.parametrize("family", ["llama_tied", "qwen2", "gpt2", "gemma2", "phi", "opt"])
def test_no_factor_is_left_to_the_plain_graph(family: str, tmp_path: Path) -> None:
    """In every graph of a profile all factors are one input, in half precision unless they may be biases."""
    kinds: list[tuple[Sequence[EndKind], int]] = [
        ((), onnx.TensorProto.FLOAT16),
        (("biases",), onnx.TensorProto.FLOAT),
    ]
    for ends, kind in kinds:
        _, _, bundle = tiny_bundle(tmp_path / str(kind), family, ends=ends)
        path = graph_of(bundle, "int8", tmp_path / str(kind))
        own = kernels_for(path)
        assert own is not None
        for file in filter(lambda file: "bare" not in file.name, path.parent.glob("*.onnx")):
            graph = onnx.load_model_from_string(own.rewrite(file)[0])
            inputs = {value.name: value.type.tensor_type.elem_type for value in graph.graph.input}
            assert inputs["lora_factors"] == kind
            assert not inputs.keys() & {*bundle.decoder.factor_names()}
            named = {entry.key: entry.value for entry in graph.metadata_props}["lora_factors"].split("\n")
            assert sorted(named) == sorted(bundle.decoder.factor_names())


@pytest.fixture
def a_package_with_wrong_updates(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A package whose products are right and whose updates are not; yields how graphs were rewritten."""
    asked: list[dict[str, Any]] = []

    def rewrite(path: Path, **how: Any) -> tuple[bytes, int]:
        asked.append(how)
        return b"", 0

    package = SimpleNamespace(
        INTERFACE=finding.INTERFACE, PLAIN="plain", kernel=lambda: "avx512", LIBRARY=Path("l"),
        differs=lambda product: "other bits" if product == finding.ADAPTERS else None,
        units_are_the_same=lambda: True, with_own_products=rewrite, merge_page=lambda: False,
    )  # fmt: skip
    monkeypatch.setattr(finding, "find_spec", lambda name: object())
    monkeypatch.setattr(finding, "import_module", lambda name: package)
    finding.kernels.cache_clear()
    yield asked
    finding.kernels.cache_clear()


def test_updates_that_are_not_right_are_left_to_the_plain_graph(
    a_package_with_wrong_updates: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = finding.kernels(finding.INT8)
    assert own is not None
    (tmp_path / "model.onnx").touch()
    own.rewrite(tmp_path / "model.onnx")
    assert a_package_with_wrong_updates == [
        {"product": finding.INT8, "units": True, "adapters": False, "attends": True}
    ]
    with caplog.at_level(logging.WARNING):
        assert finding.kernels(finding.ADAPTERS) is None
    assert "other bits" in caplog.text


def test_a_layer_that_reads_another_layers_sum() -> None:
    """Gemma 3n's augmented residual is two layers with nothing between them."""
    import onnx_ir
    from ptune_kernels import low_rank

    kind = onnx_ir.DataType.FLOAT
    x, mask = (onnx_ir.val(name, kind, ["groups", "tokens", 8]) for name in ("x", "lora_mask"))
    inputs, last = [x, mask], x
    weights, nodes = list[onnx_ir.Value](), list[onnx_ir.Node]()
    for layer in ("one", "two"):
        weight = onnx_ir.val(f"{layer}.weight", const_value=onnx_ir.tensor(np.ones((8, 8), np.float32)))
        a, b = (onnx_ir.val(f"{layer}.{name}", kind, ["G", *size]) for name, size in (("A", (8, "R")), ("B", ("R", 8))))  # fmt: skip
        base, down = onnx_ir.node("MatMul", [last, weight]), onnx_ir.node("MatMul", [last, a])
        low = onnx_ir.node("Mul", [down.outputs[0], mask])
        up = onnx_ir.node("MatMul", [low.outputs[0], b])
        total = onnx_ir.node("Add", [base.outputs[0], up.outputs[0]])
        nodes += [base, down, low, up, total]
        inputs, weights, last = [*inputs, a, b], [*weights, weight], total.outputs[0]
    last.name, last.dtype, last.shape = "y", kind, onnx_ir.Shape(["groups", "tokens", 8])
    graph = onnx_ir.Graph(inputs, [last], nodes=nodes, initializers=weights, opset_imports={"": 20})
    assert low_rank.rewrite(onnx_ir.Model(graph, ir_version=10)) == 2
    made = {*graph.inputs, *graph.initializers.values()}
    for node in graph:
        assert made.issuperset(value for value in node.inputs if value is not None)
        made.update(node.outputs)
    assert [node.op_type for node in graph].count("LowRankUpdate") == 2
