"""Contexts of 32k and 128k tokens: transformers' numbers at far positions, in any chunks, in memory that grows with the text alone."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.long_models import FAR, KINDS, Plain, long_bundle, prompt
from support.own_memory import gained
from support.resident import resident_bytes

from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.request import Request
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Step
from ptune.engine.kernels import kernels_for
from ptune.engine.sampling import Sampling
from ptune.formats.bundle import BASE, FP32, Bundle
from ptune.parity import log_softmax

LIMIT = 1e-3
GREEDY = Sampling(temperature=0)
LONG = 32_768
linux = pytest.mark.skipif(sys.platform != "linux", reason="tells its memory otherwise")


@dataclass(frozen=True)
class Long:
    model: Path
    bundle: Bundle


@pytest.fixture(scope="module")
def longs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Long]:
    """Those that were made so far."""
    return {}


def of(kind: str, longs: dict[str, Long], factory: pytest.TempPathFactory) -> Long:
    if kind not in longs:
        longs[kind] = Long(*long_bundle(factory.mktemp(kind), kind))
    return longs[kind]


@pytest.mark.parametrize("own", [False, True], ids=["onnxruntime", "own"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_tokens_of_the_context_are_transformers_own(
    kind: str, own: bool, longs: dict[str, Long], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Behind 131,040 keys and values, random ones, the same for both sides."""
    long = of(kind, longs, tmp_path_factory)
    signature, last = long.bundle.decoder, prompt(32)
    assert signature.context == FAR
    start, random = FAR - len(last), np.random.default_rng(1)
    path = long.bundle.graph_path(FP32)
    kernels = kernels_for(path) if own else None
    if own and (kernels is None or not kernels.attends(path)):
        pytest.skip("ptune-kernels is not installed")
    cache = KvCache(signature, 1, FAR)
    keys = [
        random.standard_normal((one.shape[1], start, one.shape[3]), np.float32)
        for one in cache.window(0, 1).values()
    ]
    for array, values in zip(cache.window(0, 1).values(), keys, strict=True):
        array[0, :, :start] = values
    sequence = TokenSequence([0] * start + last, all_logits=True)
    sequence.slot, sequence.cached = 0, start
    step = Step(Graphs.open(path, signature, 1, kernels=kernels), signature, cache)
    found = []
    for count in (20, 1, 8, 1, 2):
        found.append(np.array(step([Chunk(sequence, sequence.cached, count)])[0]))
        sequence.cached += count
    expected = log_softmax(Plain(long.model).behind(start, keys, last))
    assert np.abs(log_softmax(np.concatenate(found)) - expected).max() < LIMIT
    near = log_softmax(Plain(long.model).behind(0, [key[:, :0] for key in keys], last))
    assert np.abs(near - expected).max() > 10 * LIMIT, "it tells far positions from near ones"


def read(
    long: Long, tokens: list[int], count: int, **options: Any
) -> tuple[np.ndarray[Any, Any], list[int], int]:
    """Logprobs [count, 5] of an answer's tokens and of the likeliest beside them, its tokens, and the memory that was taken."""
    with closing(Engine.open(long.bundle, threads=1, replay_golden=False, **options)) as engine:
        request = Request(tuple(tokens), BASE, GREEDY, max_tokens=count, logprobs=5)
        answer = engine.generate_all([request])[0]
        found, taken = engine.stats(), resident_bytes(engine._cache._memory)
        assert taken == found.kv_resident_bytes
    assert answer[-1].error is None
    top = np.array([[logprob for _, logprob in token.top] for token in answer])
    return top, [token.id for token in answer], taken


def compare(long: Long, length: int) -> None:
    """A text of so many tokens, its answer included, in two ways of cutting it, and by transformers."""
    tokens = prompt(length - 4)
    top, said, taken = read(long, tokens, 4, prefill_chunk=512)
    again, same, _ = read(long, tokens, 4, prefill_chunk=96)
    assert said == same
    assert np.array_equal(top, again), "however it is cut, to the bit"
    expected = log_softmax(Plain(long.model).said([*tokens, *said[:-1]], 4))
    assert np.abs(-np.sort(-expected)[:, : top.shape[1]] - top).max() < LIMIT
    assert expected.argmax(-1).tolist() == said
    per_token = long.bundle.decoder.cache_bytes_per_token()
    assert length - 1 <= taken / per_token <= length + 1024, "what was written, in whole pages"


@linux
def test_a_text_of_32k_tokens(longs: dict[str, Long], tmp_path_factory: pytest.TempPathFactory) -> None:
    compare(of("llama3", longs, tmp_path_factory), LONG)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("llama3", "dynamic")])
def test_a_text_of_32k_tokens_of_every_kind(
    kind: str, longs: dict[str, Long], tmp_path_factory: pytest.TempPathFactory
) -> None:
    compare(of(kind, longs, tmp_path_factory), LONG)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama3", "longrope"])
def test_a_text_of_128k_tokens(
    kind: str, longs: dict[str, Long], tmp_path_factory: pytest.TempPathFactory
) -> None:
    compare(of(kind, longs, tmp_path_factory), FAR)


_READS = """
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request
from ptune.engine.sampling import Sampling

folder, length, kernels, scored = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "True"
engine = Engine.open(folder, threads=1, replay_golden=False, prefill_chunk=64, kernels=kernels)
tokens = tuple(5 + at * at % 500 for at in range(length))

def request(tokens):
    return Request(tokens, "base", Sampling(temperature=0), max_tokens=2, prompt_logprobs=0 if scored else None)

engine.generate_all([request(tokens[:600])])
with measured():
    for _ in engine.generate(request(tokens)):
        pass
engine.close()
"""
_CHUNK, _HEADS, _FLOAT_BYTES, _ELSE_BYTES = 64, 2, 4, 3 << 20


@linux
@pytest.mark.parametrize(("kernels", "scored"), [("auto", False), ("off", False), ("auto", True)])
def test_memory_of_a_prompt_grows_as_its_text(
    kernels: str, scored: bool, longs: dict[str, Long], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Twice the text takes its keys and values; onnxruntime's attention, besides, a chunk's scores. Nothing has the size of context times
    context, or of context times vocabulary."""
    bundle = of("llama3", longs, tmp_path_factory).bundle
    signature, short, long = bundle.decoder, 6000, 12_000
    taken = [gained(_READS, bundle.folder, length, kernels, scored) for length in (short, long)]
    more = long - short
    text_bytes = more * signature.cache_bytes_per_token()
    scores_bytes = 0 if kernels == "auto" else more * _CHUNK * _HEADS * _FLOAT_BYTES
    may_bytes = text_bytes + scores_bytes + _ELSE_BYTES
    assert taken[1] - taken[0] < may_bytes
    assert may_bytes < more * min(signature.vocab_size, more) * _FLOAT_BYTES / 2, (
        "which is what the limit tells apart"
    )
