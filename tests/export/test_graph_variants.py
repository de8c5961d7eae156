"""The graphs beside a decoder's own say the same bits as it, and have no weights of their own."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import peft_folder, tiny_bundle
from support.tiny_models import VOCAB

from ptune.engine.adapters.folder import install
from ptune.engine.decoder import graphs
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.inputs.attention_metadata import Heads, PackedGqaQueries
from ptune.engine.decoder.inputs.flat_tokens import Tokens, flat_indices
from ptune.engine.decoder.inputs.lora_slots import LoraSlots
from ptune.engine.decoder.request import Request
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Step
from ptune.engine.options import LIGHT
from ptune.engine.sampling import Sampling
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.int8 import write_int8
from ptune.formats.bundle import BARE, BASE, FP32, GROUPED, GROUPED_BARE
from ptune.formats.signature import Signature

IN_GROUPS = (
    "llama",
    "qwen3",
    "gemma",
    "phi",
    "olmo2",
    "lfm2",
)  # heads share keys, and nothing goes by a query's place


@pytest.mark.parametrize("family", [*IN_GROUPS, "gpt2", "opt", "gemma2"])
def test_the_same_bits(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole prompts, single tokens, and an adapter's beside the base's."""
    base, _, bundle = tiny_bundle(tmp_path, family)
    install(bundle, peft_folder(base, tmp_path / "four", spread=0.2), "four")
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCAB, length).tolist() for length in (70, 17)]
    requests = [Request(tuple(ids[0][:9]), name, Sampling(0), max_tokens=20) for name in (BASE, "four", BASE)]
    found: dict[int, list[Any]] = {}
    for light in (LIGHT, 0):
        monkeypatch.setattr(graphs, "LIGHT", light)
        with closing(
            Engine.open(bundle, threads=1, replay_golden=False, prefill_chunk=40, kernels="exact")
        ) as engine:
            there = engine._step.graphs
            assert (there.grouped is not None, there.grouped_bare is not None) == (
                bool(light) and family in IN_GROUPS,
            ) * 2
            assert (there.bare is not None) == bool(light)
            found[light] = [
                engine.logits(ids, [BASE, BASE]),
                engine.logits(ids, [BASE, "four"]),
                [[token.id for token in answer] for answer in engine.generate_all(requests)],
            ]
    (alone, mixed, said), (alone_whole, mixed_whole, said_whole) = found.values()
    assert all(np.array_equal(*pair) for pair in zip(alone, alone_whole, strict=True))
    assert np.array_equal(mixed[0], alone[0])
    assert all(np.array_equal(*pair) for pair in zip(mixed, mixed_whole, strict=True))
    assert not np.array_equal(mixed[1], alone[1])
    assert said == said_whole


@given(st.data())
def test_the_same_bits_of_any_step(bundle_of_groups: tuple[Graphs, Signature], data: st.DataObject) -> None:
    """Chunks of any sizes at any places, some slots idle, near the cache's end."""
    there, signature = bundle_of_groups
    capacity = 24
    slots = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True))
    seed = data.draw(st.integers(0, 2**16))
    chunks = []
    for slot in slots:
        start = data.draw(st.integers(0, capacity - 1))
        count = data.draw(st.integers(1, min(9, capacity - start)))
        row = TokenSequence([5 + (seed + at) % 500 for at in range(start + count)], all_logits=True)
        row.slot = slot
        chunks.append(Chunk(row, start, count))
    found = []
    for graphs_used in (there, Graphs(there.whole)):
        cache = KvCache(signature, 5, capacity)
        random = np.random.default_rng(seed)
        for array in cache.window(0, 5).values():
            array[:] = random.standard_normal(array.shape)
        lengths = random.integers(0, capacity, 5)
        logits = Step(graphs_used, signature, cache)(chunks)
        kept = [
            array[chunk.sequence.slot, :, : chunk.start + chunk.count]
            for array in cache.window(0, 5).values()
            for chunk in chunks
        ]
        idle = [slot for slot in range(5) if slot not in slots]
        kept += [array[slot, :, : lengths[slot]] for array in cache.window(0, 5).values() for slot in idle]
        found.append(logits + kept)
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


@pytest.fixture(scope="module")
def bundle_of_groups(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graphs, Signature]:
    _, _, bundle = tiny_bundle(tmp_path_factory.mktemp("groups"), "llama")
    return Graphs.open(bundle.graph_path(), bundle.decoder, 1), bundle.decoder


def test_what_a_query_sees() -> None:
    """Slot 1 computes its third and fourth token; slot 0 is idle with one. Four heads read two keys."""
    row = TokenSequence([7, 8, 9, 10])
    row.slot = 1
    chunk = Chunk(row, 2, 2)
    window = LoraSlots(Signature(vocab_size=1, context=1, cache=(), sockets=()), 1).of([])
    flat, width = flat_indices([chunk], window)
    view = PackedGqaQueries(Tokens.of([chunk], flat, width, range(2)), Heads(4, 2)).at(np.array([2]))
    assert view["pad_indices"].tolist() == [[0] * 4, [0, 1, 0, 1]]
    of_token = [[0, 2, 4, 5, 6, 7], [1, 3, 4, 5, 6, 7]]  # four queries, two keys, two values
    of_next = [[8 + line for line in lines] for lines in of_token]
    assert view["heads"][1].tolist() == [of_token[0], of_next[0], of_token[1], of_next[1]]
    assert view["unpad_indices"].tolist() == [[8, 12, 9, 13], [10, 14, 11, 15]]  # (4 + query) * 2 + key
    assert view["query_seqlens"].tolist() == [0, 4]
    assert view["seqlens_k"].tolist() == [0, 5]
    assert view["capacity"] == 6
    seen = view["mask"][1, 0] == 0
    assert seen.sum(axis=1).tolist() == [3, 4, 3, 4]
    assert all(line[: line.sum()].all() for line in seen)


def test_they_have_no_weights(tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path)
    write_int8(bundle.graph_path(FP32), tmp_path / "int8" / "model.onnx")
    for path in (bundle.graph_path(FP32), tmp_path / "int8" / "model.onnx"):
        write_lighter(path, bundle.decoder)
        assert sorted(file.name for file in path.parent.iterdir()) == [
            BARE, GROUPED, GROUPED_BARE, "model.onnx", "model.onnx.data",
        ]  # fmt: skip
        for names in (("model.onnx", BARE), (GROUPED, GROUPED_BARE)):
            sockets, bare = (onnx_ir.load(path.with_name(name)).graph for name in names)
            assert {value.name for value in sockets.inputs} - {value.name for value in bare.inputs} == {
                *bundle.decoder.factor_names()
            }
            taken = Counter(node.op_type for node in sockets) - Counter(node.op_type for node in bare)
            assert taken["MatMul"] == 2 * len(bundle.decoder.sockets)
            assert taken["Mul"] == len(bundle.decoder.sockets)
    assert f"graphs/fp32/{GROUPED_BARE}" in bundle.manifest.graphs["fp32"].files
