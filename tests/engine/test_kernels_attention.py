"""The package ptune-kernels: attention computes what onnxruntime's does, with bits that depend on nothing but a query's sequence."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import peft_folder, tiny_bundle
from support.int8_cache import give_int8_cache
from support.tiny_models import VOCAB

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.inputs.flat_tokens import SCORES
from ptune.engine.kernels import PACKAGE, kernels_for
from ptune.engine.onnx_graph import open_graph
from ptune.formats.bundle import BASE, Bundle
from ptune.parity import log_softmax

pytestmark = pytest.mark.skipif(
    find_spec(PACKAGE) is None,
    reason="ptune-kernels is not built: scripts/kernels does it where a C++ compiler and onnxruntime's header are",
)
POSITIONS = 420
KERNELS = ("plain", "avx2", "avx_vnni", "avx512")
Array = np.ndarray[Any, Any]


def sessions(heads: Any, threads: int = 1) -> tuple[Any, Any]:
    """onnxruntime's attention, never in tiles, and the own operator."""
    import onnxruntime
    from ptune_kernels import LIBRARY, attention, plain_attention
    from ptune_kernels.rewrite import rewritten

    model = plain_attention.model(heads)
    plain = onnx_ir.to_proto(model).SerializeToString()
    graph, count = rewritten(model, attention.PRODUCT, attends=True)
    assert count == 1
    found = []
    for one in (plain, graph):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.register_custom_ops_library(str(LIBRARY))
        found.append(onnxruntime.InferenceSession(one, options, providers=["CPUExecutionProvider"]))
    return found[0], found[1]


@st.composite
def layers(draw: st.DrawFn) -> Any:
    from ptune_kernels.plain_attention import Heads

    keys, dim = draw(st.integers(1, 3)), draw(st.sampled_from([8, 16, 48, 64, 80, 128, 256]))
    rotary = draw(st.sampled_from([0, dim, 16])) if dim % 16 == 0 else 0
    attributes: dict[str, Any] = {}
    if draw(st.booleans()):
        attributes["local_window_size"] = draw(st.integers(1, 300))
    if draw(st.booleans()):
        attributes["softcap"] = draw(st.sampled_from([0.5, 5.0, 30.0]))
    if draw(st.booleans()):
        attributes["scale"] = draw(st.floats(0.02, 0.5))
    int8 = draw(st.booleans())
    sinks = "softcap" not in attributes and draw(st.booleans())  # a sink is not capped
    return Heads(keys * draw(st.integers(1, 4)), keys, dim, 0 if int8 else rotary, int8, attributes, sinks)


sequences_of = st.lists(
    st.tuples(st.sampled_from([0, 1, 31, 127, 128, 129, 300]), st.sampled_from([0, 1, 1, 2, 7, 33, 100])),
    min_size=1,
    max_size=4,
).filter(lambda all_of_them: any(new for _, new in all_of_them))


def exactly(step: Any, caches: list[Array]) -> tuple[Array, float]:
    """Attention in float64 over the keys and values that a step left in the cache; and its largest score."""
    heads, inputs = step.heads, step.inputs
    found, largest = [], 0.0
    with_tokens = [(row, start, new) for row, (start, new) in enumerate(step.sequences) if new]
    for (row, start, new), keys, values in zip(
        with_tokens, caches[: len(with_tokens)], caches[len(with_tokens) :], strict=True
    ):
        k, v = (
            cache.astype(np.float64)
            * (inputs[f"{name}_scale"].reshape(heads.keys, 1, heads.dim) if heads.int8 else 1)
            for name, cache in (("key", keys), ("value", values))
        )
        for at in range(new):
            cell = inputs["pad_indices"][row, at]
            q = inputs["lines"][cell, : heads.queries * heads.dim].astype(np.float64)
            q = q.reshape(heads.queries, heads.dim)
            if heads.rotary:
                half = heads.rotary // 2
                cos, sin = (inputs[name][cell].astype(np.float64) for name in ("cos", "sin"))
                low, high = q[:, :half].copy(), q[:, half : 2 * half].copy()
                q[:, :half], q[:, half : 2 * half] = low * cos - high * sin, high * cos + low * sin
            window = heads.attributes.get("local_window_size", POSITIONS)
            seen = slice(max(0, start + at + 1 - window), start + at + 1)
            group = np.arange(heads.queries) // (heads.queries // heads.keys)
            scores = np.einsum("hd,hld->hl", q, k[group, seen]) * heads.attributes.get(
                "scale", heads.dim**-0.5
            )
            if softcap := heads.attributes.get("softcap"):
                scores = softcap * np.tanh(scores / softcap)
            largest = max(largest, float(np.abs(scores).max()))
            sinks = (
                inputs["sinks"].astype(np.float64)[:, None]
                if heads.sinks
                else np.full((heads.queries, 1), -np.inf)
            )
            highest = np.maximum(scores.max(-1, keepdims=True), sinks)
            p = np.exp(scores - highest)
            p /= p.sum(-1, keepdims=True) + np.exp(sinks - highest)
            found.append(np.einsum("hl,hld->hd", p, v[group, seen]).reshape(-1))
    return np.array(found), largest


@settings(max_examples=60, deadline=None)
@given(layers(), sequences_of, st.integers(1, 2), st.integers(0, 2**16))
def test_the_numbers_of_onnxruntime_and_of_float64(
    heads: Any, sequences: list[tuple[int, int]], threads: int, seed: int
) -> None:
    """Any heads, lengths, windows and caps, with either cache; all kernels of a processor give the same bits."""
    import ptune_kernels
    from ptune_kernels.plain_attention import Step

    step = Step.of(np.random.default_rng(seed), heads, sequences, POSITIONS)
    found = {}
    for name in filter(ptune_kernels.use_kernel, KERNELS):
        plain, own = sessions(heads, threads)
        found[name] = step.answers(own)
    ptune_kernels.use_kernel(None)
    y, *caches = found["plain"]
    for others in found.values():
        assert all(np.array_equal(*pair) for pair in zip(found["plain"], others, strict=True))
    theirs, *of_theirs = step.answers(plain)
    for mine, other in zip(caches, of_theirs, strict=True):
        assert (
            np.abs(mine.astype(np.float64) - other).max() <= (0 if heads.int8 else 1e-6) * np.abs(other).max()
        )
    expected, score = exactly(step, caches)
    # float32 holds a score of 32 half as exactly as one of 16, and so its weight; onnxruntime's answers are as far off then.
    largest = np.abs(expected).max() * max(1, score / 16)
    assert np.abs(y - theirs).max() <= 4e-6 * largest
    assert np.abs(y - expected).max() <= 2e-6 * largest


def cut(step: Any, pieces: list[int]) -> list[Any]:
    """The first sequence's new tokens, alone and in pieces, one step behind the other."""
    (start, new), inputs = step.sequences[0], step.inputs
    cells, found = inputs["pad_indices"][0, :new], []
    for at, count in zip(np.cumsum([0, *pieces[:-1]]), pieces, strict=True):
        mine = cells[at : at + count]
        given = {
            name: inputs[name] for name in ("key_scale", "value_scale", "capacity", "sinks") if name in inputs
        }
        given |= {name: inputs[name][mine] for name in ("lines", "cos", "sin") if name in inputs}
        given |= {name: inputs[name][:1] for name in ("past_key", "past_value")}
        given |= {"pad_indices": np.arange(count)[None], "unpad_indices": np.arange(count)}
        given |= {"query_seqlens": np.array([count], np.int32)}
        given |= {"seqlens_k": np.array([start + at + count - 1], np.int32)}
        found.append(replace(step, sequences=[(start + at, count)], inputs=given))
    return found


@settings(max_examples=40, deadline=None)
@given(layers(), sequences_of, st.data())
def test_the_same_bits_in_any_company(heads: Any, others: list[tuple[int, int]], data: st.DataObject) -> None:
    """A sequence among others on two threads, and the same one alone, cut anywhere, on one."""
    from ptune_kernels.plain_attention import Step

    start, new = data.draw(st.integers(0, 300)), data.draw(st.integers(1, 100))
    pieces: list[int] = []
    while sum(pieces) < new:
        pieces.append(data.draw(st.integers(1, new - sum(pieces))))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    step = Step.of(random, heads, [(start, new), *others], POSITIONS)
    _, together = sessions(heads, 2)
    y, *caches = step.answers(together)
    _, alone = sessions(heads)
    found, grown = [], [step.inputs[name][:1] for name in ("past_key", "past_value")]
    for part in cut(step, pieces):
        part.inputs["past_key"], part.inputs["past_value"] = grown
        rows, *grown = alone.run(["y", "present_key", "present_value"], part.inputs)
        found.append(rows)
    assert np.array_equal(np.concatenate(found), y[:new])
    with_tokens = len(caches) // 2
    for mine, other in zip(grown, (caches[0], caches[with_tokens]), strict=True):
        assert np.array_equal(mine[0, :, : start + new], other)


def test_a_token_that_is_there_twice_is_computed_once() -> None:
    """As the engine lays out single tokens for onnxruntime's attention; cells of nobody get zeros."""
    from ptune_kernels.plain_attention import Heads, Step

    step = Step.of(np.random.default_rng(0), Heads(4, 2, 16), [(20, 1)], 32)
    _, own = sessions(step.heads)
    once = own.run(None, step.inputs)
    twice = step.inputs | {"pad_indices": np.repeat(step.inputs["pad_indices"], 2, axis=1)}
    twice |= {"query_seqlens": np.array([2], np.int32), "seqlens_k": np.array([21], np.int32)}
    again = own.run(None, twice)
    assert all(np.array_equal(*pair) for pair in zip(once, again, strict=True))
    free = np.setdiff1d(np.arange(2), step.inputs["pad_indices"])
    assert not once[0][free].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seqlens_k": np.array([32], np.int32)}, "longer than its slot"),
        ({"query_seqlens": np.array([2], np.int32)}, "longer than its slot"),
        ({"pad_indices": np.array([[9]])}, "nowhere"),
    ],
)
def test_inputs_that_would_leave_memory_are_refused(given: dict[str, Array], message: str) -> None:
    from ptune_kernels.plain_attention import Heads, Step

    step = Step.of(np.random.default_rng(0), Heads(4, 2, 16), [(20, 1)], 32)
    with pytest.raises(Exception, match=message):
        sessions(step.heads)[1].run(None, step.inputs | given)


def test_what_is_not_just_that_attention_stays() -> None:
    """A mask, neighbours turned with each other, smooth softmax, a scale for the whole tensor."""
    from ptune_kernels import attention
    from ptune_kernels.plain_attention import Heads, model

    def with_input(graph: onnx_ir.Model, at: int) -> None:
        node = next(node for node in graph.graph if node.op_type == attention.PRODUCT)
        node.replace_input_with(at, onnx_ir.val("more", onnx_ir.DataType.FLOAT, [4]))

    heads = Heads(4, 2, 16, 16)
    graph = model(heads)
    with_input(graph, 10)
    assert attention.rewrite(graph.graph) == 0
    changes = ({"rotary_interleaved": 1}, {"smooth_softmax": 1}, {"qk_output": 1}, {"of_tomorrow": 1})
    for attributes in changes:
        assert attention.rewrite(model(replace(heads, attributes=attributes)).graph) == 0
    graph = model(replace(heads, rotary=0, int8=True))
    node = next(node for node in graph.graph if node.op_type == attention.PRODUCT)
    node.attributes["k_quant_type"] = onnx_ir.AttrString("k_quant_type", "PER_TENSOR")
    assert attention.rewrite(graph.graph) == 0
    assert attention.rewrite(model(replace(heads, dim=512, rotary=0)).graph) == 0


def engine_of(bundle: Bundle, kernels: Any, cache: Any = "float32", **options: Any) -> Engine:
    return Engine.open(
        bundle, threads=2, kernels=kernels, kv_cache_dtype=cache, replay_golden=False, **options
    )


@pytest.mark.parametrize("cache", ["float32", "int8"])
@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen3", "gemma2", "phi", "gpt2", "gpt_oss", "minicpm3", "gemma4_text"]
)
def test_an_engine_says_the_same(family: str, cache: Any, tmp_path: Path) -> None:
    """All attention of exported decoders is replaced. Answers are those of the plain graph; company moves none of the base's bits."""
    base, _, bundle = tiny_bundle(tmp_path, family)
    install(bundle, peft_folder(base, tmp_path / "four", spread=0.2), "four")
    if cache == "int8":
        give_int8_cache(bundle)
    bundle = Bundle.open(bundle.folder)
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCAB, length).tolist() for length in (70, 17, 1)]
    names = [BASE, "four", BASE]
    found = {}
    for kernels in ("off", "auto"):
        with closing(engine_of(bundle, kernels, cache)) as engine:
            assert engine._step.graphs.own_attention == (kernels == "auto")
            found[kernels] = engine.logits(ids, names)
    limit = 1e-4 if cache == "float32" else 0.05  # a key that rounds otherwise moves more
    for plain, own in zip(*found.values(), strict=True):
        assert np.abs(log_softmax(plain) - log_softmax(own)).max() < limit
    with closing(engine_of(bundle, "auto", cache, prefill_chunk=13)) as engine:
        (alone,) = engine.logits(ids[:1], [BASE])
    assert np.array_equal(alone, found["auto"][0])


def test_only_auto_replaces_attention(tmp_path: Path) -> None:
    """`exact` has the operators that give the base's bits: here those of what adapters add."""
    _, _, bundle = tiny_bundle(tmp_path, "llama")
    path = bundle.graph_path()
    exact, own = kernels_for(path, exact=True), kernels_for(path)
    assert exact is not None
    assert own is not None
    assert not Graphs.open(path, bundle.decoder, 1, kernels=exact).own_attention
    assert Graphs.open(path, bundle.decoder, 1, kernels=own).own_attention
    assert not Graphs.open(path, bundle.decoder, 1, kernels=own.exact()).own_attention
    nodes = [*onnx_ir.from_proto(onnx_model(own.rewrite(path)[0])).graph]
    layers = [node for node in nodes if node.op_type == "Attention"]
    assert layers
    assert not any(node.op_type == "GroupQueryAttention" for node in nodes)
    assert {node.op_type for layer in layers for node in layer.outputs[0].consumers()} == {
        "MatMul",
        "LowRankUpdate",
    }
    assert open_graph(path, 1, kernels=own) is not None


def test_a_graph_whose_attention_stays_is_not_said_to_have_own_attention(tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path, "gemma4_text", global_head_dim=272, num_kv_shared_layers=0)
    path = bundle.graph_path()
    own = kernels_for(path)
    assert own is not None
    assert own.reordered == ("adapters",)
    assert not Graphs.open(path, bundle.decoder, 1, kernels=own).own_attention


def onnx_model(graph: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(graph)


def test_a_step_is_one_run_however_long_its_slots_are(tmp_path: Path) -> None:
    """onnxruntime's attention would allocate scores for a prompt in every slot."""
    _, _, bundle = tiny_bundle(tmp_path, "llama")
    with closing(engine_of(bundle, "auto")) as engine:
        runs: list[int] = []
        whole = engine._step._run
        engine._step._run = lambda chunks, at: runs.append(at) or whole(chunks, at)  # type: ignore[method-assign, func-returns-value]
        room, engine._step._cache.room = engine._step._cache.room, SCORES
        engine.logits([[7] * 9, [8]], [BASE, BASE])
        engine._step._cache.room = room
    assert set(runs) == {0}
