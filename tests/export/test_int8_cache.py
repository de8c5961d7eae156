"""Graphs whose keys and values are int8 answer as transformers does, and with the same bits in any company."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import peft_folder, tiny_bundle, with_peft
from support.int8_cache import give_int8_cache
from support.tiny_models import VOCAB, build

from ptune.backbone.load import load
from ptune.config.recipe import Backbone
from ptune.engine.adapters.folder import install
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Step
from ptune.export.decoder.int8 import write_int8
from ptune.export.decoder.int8_cache import write_int8_cache
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import BASE, FP32, INT8_CACHE, INT8_CACHE_BARE, Bundle
from ptune.formats.signature import Signature
from ptune.parity import log_softmax
from ptune.publish.cache_scales import measured_scales
from ptune.verify.decoder import company
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.plain_ends import PlainEnds

FAMILIES = ("llama", "mistral", "qwen3", "gemma2", "phi", "olmo2", "gpt2", "opt", "lfm2")
KL = 0.005  # the gate's


def opened(bundle: Bundle, chunk: int) -> Engine:
    return Engine.open(bundle, threads=1, prefill_chunk=chunk, kv_cache_dtype="int8", replay_golden=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_engine_says_what_transformers_and_peft_say(family: str, tmp_path: Path) -> None:
    base, _, bundle = tiny_bundle(tmp_path, family)
    adapter = peft_folder(base, tmp_path / "four", spread=0.2)
    install(bundle, adapter, "four")
    give_int8_cache(bundle)
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCAB, length).tolist() for length in (37, 23)]
    with closing(opened(bundle, 10)) as engine:
        found = engine.logits(ids, ["four", BASE])
    with closing(opened(bundle, 64)) as engine:
        (alone,) = engine.logits(ids[1:], [BASE])
    assert np.array_equal(alone, found[1]), "neighbours or chunks change a sequence's bits"
    hop = company.hop(bundle, FP32, ids, threads=1, cache="int8")
    assert hop.passed, hop.note
    assert hop.note.endswith("the base's moved by 0")
    for sequence, folder, logits in zip(ids, (adapter, None), found, strict=True):
        with torch.no_grad():
            expected = log_softmax(with_peft(base, folder)(torch.tensor([sequence])).logits[0].numpy())
        delta = expected - log_softmax(logits)
        assert 0 < float((np.exp(expected) * delta).sum(-1).mean()) < KL
        assert np.abs(delta).max() > 1e-5, "nothing was rounded: this test proves nothing"


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def graphs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Graphs, Signature]:
    """Of a profile with float32 weights, and of one with int8 weights."""
    folder = tmp_path_factory.mktemp("cache")
    _, loaded, bundle = tiny_bundle(folder, "llama")
    scales = measured_scales(bundle, loaded.codec, 1)
    path = bundle.graph_path()
    if request.param:
        path = folder / "int8" / "model.onnx"
        write_int8(bundle.graph_path(), path)
    write_int8_cache(path, scales)
    return Graphs.open(path.with_name(INT8_CACHE), bundle.decoder, 1), bundle.decoder


@given(st.data())
def test_the_same_bits_in_any_pieces_beside_any_neighbours(
    graphs: tuple[Graphs, Signature], data: st.DataObject
) -> None:
    """A sequence in one piece and alone, against the same one in pieces, some of a single token, beside others."""
    there, signature = graphs
    seed = data.draw(st.integers(0, 2**16))
    random = np.random.default_rng(seed)
    ids = random.integers(5, VOCAB, 40).tolist()
    alone = Step(there, signature, KvCache(signature, 1, 48, dtype="int8"))
    row = TokenSequence(ids, all_logits=True)
    row.slot = 0
    whole = np.array(alone([Chunk(row, 0, len(ids))])[0])
    cache = KvCache(signature, 4, 56, dtype="int8")
    for array in cache.window(0, 4).values():
        array[:] = random.integers(-128, 128, array.shape)
    step, slot = Step(there, signature, cache), data.draw(st.integers(0, 3))
    row = TokenSequence(ids, all_logits=True)
    row.slot = slot
    while row.uncached:
        count = data.draw(st.integers(1, min(row.uncached, data.draw(st.sampled_from([1, 3, 40])))))
        chunks = [Chunk(row, row.cached, count)]
        for other in data.draw(st.sets(st.integers(0, 3).filter(lambda each: each != slot))):
            start = data.draw(st.integers(0, 40))
            size = data.draw(st.integers(1, 56 - start))
            beside = TokenSequence([7] * (start + size), all_logits=True)
            beside.slot = other
            chunks.append(Chunk(beside, start, size))
        found = step(chunks)[0]
        assert np.array_equal(found, whole[row.cached : row.cached + count])
        row.cached += count


def test_it_is_on_the_same_weights(tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path)
    give_int8_cache(bundle)
    folder = bundle.graph_path().parent
    assert {INT8_CACHE, INT8_CACHE_BARE} < {file.name for file in folder.iterdir()}
    assert [file.name for file in folder.glob("*.data")] == ["model.onnx.data"]
    for name in (INT8_CACHE, INT8_CACHE_BARE):
        graph = onnx_ir.load(folder / name).graph
        caches = [
            value for value in (*graph.inputs, *graph.outputs) if "key" in value.name or "value" in value.name
        ]
        assert len(caches) == 4 * len(bundle.decoder.cache)
        assert {value.dtype for value in caches} == {onnx_ir.DataType.INT8}
        assert f"graphs/fp32/{name}" in bundle.manifest.graphs[FP32].files


def test_scales_hold_to_the_end_of_the_context(tmp_path: Path) -> None:
    """Rotary embedding turns a large slow channel into its small neighbour only far from the start of the context."""
    base = build(tmp_path / "model", "llama", max_position_embeddings=8192)
    loaded = load(Backbone(model=str(base)), device="cpu")
    model: Any = loaded.model
    with torch.no_grad():
        for layer in model.model.layers:
            weight = layer.self_attn.k_proj.weight
            keys = weight.view(-1, model.config.head_dim // 2, weight.shape[1])
            keys[::2, -3:] *= 20  # of each head the first halves, in whose place the second ones come
    weights, config = ModelWeights(loaded.model), loaded.model.config
    bundle = write_bundle(tmp_path / "bundle", config, weights, loaded.codec, loaded.identity)
    scales = measured_scales(bundle, loaded.codec, 1)
    graph = PlainGraph(bundle.graph_path(), bundle.decoder, 1)
    ids = loaded.codec.encode_text(
        "The quick brown fox jumps over the lazy dog, and so does everybody else here."
    )
    for start in (0, 2000, 4000, 8192 - len(ids)):
        for name, cache in graph.caches(ids, start, None, PlainEnds()).items():
            assert (np.abs(cache).max(1) < 1.5 * 127 * scales[name]).all(), (start, name)
