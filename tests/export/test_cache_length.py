"""The length and the number of the cache's slots change no bit of an answer, in any family and profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bundles import tiny_bundle
from support.tiny_models import CONTEXT, VOCAB

from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Step
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.int8 import write_int8
from ptune.formats.bundle import FP32
from ptune.formats.signature import Signature

PIECES = (33, 1, 1, 8, 2, 1)  # tokens a step


def logits(graphs: Graphs, signature: Signature, slots: int, slot: int, capacity: int) -> list[np.ndarray]:
    """Of a sequence in pieces, beside another."""
    step, random = Step(graphs, signature, KvCache(signature, slots, capacity)), np.random.default_rng(0)
    found = []
    rows = [TokenSequence(random.integers(5, VOCAB, 64).tolist(), all_logits=True) for _ in range(2)]
    rows[0].slot, rows[1].slot = slot, slots - 1 - slot
    for count in PIECES:
        chunks = [Chunk(row, row.cached, count) for row in rows]
        found += [np.array(each) for each in step(chunks)]
        for row in rows:
            row.cached += count
    return found


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "qwen3"])
def test_the_same_bits_at_any_length(family: str, int8: bool, tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path, family)
    path = bundle.graph_path(FP32)
    if int8:
        path = tmp_path / "int8" / "model.onnx"
        write_int8(bundle.graph_path(FP32), path)
        write_lighter(path, bundle.decoder)
    graphs = Graphs.open(path, bundle.decoder, 1)
    short = logits(graphs, bundle.decoder, 2, 0, 64)
    for slots, slot, capacity in ((2, 0, CONTEXT), (7, 2, 8192), (2, 1, 1000)):
        long = logits(graphs, bundle.decoder, slots, slot, capacity)
        assert all(np.array_equal(*pair) for pair in zip(short, long, strict=True)), (slots, capacity)
