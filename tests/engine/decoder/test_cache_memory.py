"""An engine whose sequences may each be as long as the context, and whose memory holds few of them at once."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.fake_chat_model import wait_until
from support.resident import resident_bytes

from ptune.engine.decoder import session
from ptune.engine.decoder.cache.lazy_memory import PAGE_BYTES
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.inputs import flat_tokens
from ptune.engine.decoder.request import Beams, Request
from ptune.engine.sampling import Sampling
from ptune.errors import FormatError, RequestError, UsageError
from ptune.formats.bundle import Bundle, CacheType

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tells its memory otherwise")
KINDS: tuple[CacheType, ...] = ("float32", "int8")
CONTEXT = 512  # of the tiny model
GREEDY = Sampling(temperature=0)
LITTLE = 3 * CONTEXT  # tokens that are in memory at most


@pytest.fixture(scope="module", params=KINDS)
def kept(request: pytest.FixtureRequest) -> CacheType:
    """The type of keys and values."""
    kind: CacheType = request.param
    return kind


@pytest.fixture(scope="module")
def both(tiny: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, with an int8 cache, too."""
    from support.int8_cache import give_int8_cache

    folder = tmp_path_factory.mktemp("both") / "bundle"
    shutil.copytree(tiny.folder, folder)
    give_int8_cache(Bundle.open(folder), Random(0).choices(range(5, 600), k=CONTEXT))
    return folder


def bytes_of(folder: Path, kept: CacheType, tokens: int) -> int:
    return tokens * Bundle.open(folder).decoder.cache_bytes_per_token(np.dtype(kept).itemsize)


def little(folder: Path, kept: CacheType = "float32") -> Engine:
    """32 slots of the whole context, and memory for a tenth of them."""
    return Engine.open(
        folder,
        threads=1,
        max_rows=32,
        kv_bytes=bytes_of(folder, kept, LITTLE),
        kv_cache_dtype=kept,
        prefill_chunk=64,
        replay_golden=False,
    )


def mixed(random: Random, count: int, longest: int = CONTEXT) -> Iterator[Request]:
    """Short and long ones of three tenants, some of which begin alike."""
    for _ in range(count):
        prompt = [7] * random.choice((0, 40, 200)) + [
            random.randrange(5, 600) for _ in range(random.randint(1, 60))
        ]
        output = random.choice((2, 20, max(5, longest - len(prompt))))
        yield Request(
            tuple(prompt),
            random.choice(("base", "base", "wide")),
            GREEDY,
            max_tokens=output,
            tenant=random.choice("abc"),
            logprobs=0,
        )


def test_each_is_answered_as_alone_though_few_fit(both: Path, kept: CacheType) -> None:
    requests = list(mixed(Random(1), 32))
    with closing(
        Engine.open(both, threads=1, max_rows=1, kv_cache_dtype=kept, replay_golden=False)
    ) as engine:
        alone = [engine.generate_all([request])[0] for request in requests]
    with closing(little(both, kept)) as engine:
        assert engine.context == CONTEXT
        assert engine.capacity().startswith(
            "32 sequences at once, each of up to 512 tokens, and 1,536 tokens"
        )
        crowded = engine.generate_all(requests)
        stats = engine.stats()
        assert stats.preempted > 0
        assert stats.kv_capacity_tokens == LITTLE
        assert stats.kv_resident_bytes <= bytes_of(both, kept, LITTLE)
        assert resident_bytes(engine._cache._memory) == stats.kv_resident_bytes > 0
    for request, expected, found in zip(requests, alone, crowded, strict=True):
        assert [token.id for token in found] == [token.id for token in expected]
        if request.adapter == "base":
            assert [token.logprob for token in found] == [token.logprob for token in expected], (
                "the same bits"
            )


def test_memory_never_exceeds_the_budget_in_any_step(both: Path, kept: CacheType) -> None:
    with closing(little(both, kept)) as engine:
        most = bytes_of(both, kept, engine._cache.budget.tokens)
        seen = []
        run = engine._step

        def watched(chunks):  # type: ignore[no-untyped-def]
            found = run(chunks)
            seen.append((engine._cache.resident_bytes, resident_bytes(engine._cache._memory)))
            return found

        engine._step = watched  # type: ignore[assignment]
        engine.generate_all(list(mixed(Random(2), 24, 120)))
        assert all(counted == there <= most for counted, there in seen)
        assert max(there for _, there in seen) > most * 0.8, "and what there is, is used"


def test_int8_holds_four_times_as_many_tokens_in_the_same_memory(both: Path) -> None:
    capacities = []
    kv_bytes = bytes_of(both, "float32", LITTLE)
    for kept in KINDS:
        with closing(
            Engine.open(both, threads=1, kv_cache_dtype=kept, kv_bytes=kv_bytes, replay_golden=False)
        ) as engine:
            capacities.append(engine.stats().kv_capacity_tokens)
    assert capacities == [LITTLE, 4 * LITTLE]


def test_a_bundle_without_int8_says_how_it_gets_it(tiny: TinyBundle) -> None:
    with pytest.raises(
        FormatError, match="has no graph of fp32 with keys and values in int8: export it with"
    ):
        Engine.open(tiny.folder, kv_cache_dtype="int8")
    with pytest.raises(UsageError, match=r"kv_cache_dtype must be float32 or int8 \(is fp8\)"):
        Engine.open(tiny.folder, kv_cache_dtype="fp8")  # type: ignore[arg-type]


def test_what_could_never_fit_is_refused_at_once(tiny: TinyBundle) -> None:
    with closing(little(tiny.folder)) as engine:
        assert engine.longest() == CONTEXT
        assert CONTEXT > engine.longest(4) >= CONTEXT // 2
        beams = Beams(4)
        with pytest.raises(RequestError, match=f"a sequence may have {engine.longest(4)}") as refused:
            engine.generate(Request((5, 6), "base", GREEDY, max_tokens=engine.longest(4) - 1, beams=beams))
        assert refused.value.code == "context_length_exceeded"
        fits = Request((5, 6), "base", GREEDY, max_tokens=engine.longest(4) - 2, beams=beams)
        others = list(mixed(Random(3), 8))
        [answer, *_] = engine.generate_all([fits, *others])
        assert answer[-1].error is None
        assert len(answer) == fits.max_tokens
    tiny_cache = Engine.open(tiny.folder, threads=1, max_rows=32, kv_bytes=200_000, replay_golden=False)
    with closing(tiny_cache) as engine:
        assert engine.context < CONTEXT
        with pytest.raises(RequestError, match=f"a sequence may have {engine.context}"):
            engine.generate(Request((5,), max_tokens=engine.context))


def test_the_same_bits_however_scores_are_divided_and_freed(
    tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = list(mixed(Random(4), 8, 100))
    found = []
    for scores, kept in ((flat_tokens.SCORES, session.KEPT_SCORES), (1, session.KEPT_SCORES), (1 << 16, 0)):
        monkeypatch.setattr(flat_tokens, "SCORES", scores)
        monkeypatch.setattr(session, "KEPT_SCORES", kept)
        with closing(little(tiny.folder)) as engine:
            answers = engine.generate_all(requests)
        found.append(
            [
                [(token.id, token.logprob if request.adapter == "base" else 0) for token in answer]
                for request, answer in zip(requests, answers, strict=True)
            ]
        )
    assert found[0] == found[1] == found[2]


def soak(tiny: TinyBundle, rounds: int) -> None:
    """Requests that end, are given up or are preempted; afterwards nothing is left but kept prefixes, and no growth."""
    random = Random(5)
    with closing(little(tiny.folder)) as engine:
        most = engine._cache.budget.tokens * engine.signature.cache_bytes_per_token()
        sizes = []
        for _ in range(rounds):
            streams = [engine.generate(request) for request in mixed(random, 16, 200)]
            for stream in streams[::4]:
                next(stream)
                stream.close()
            for stream in streams:
                for _ in stream:
                    pass
            wait_until(lambda: not (engine.stats().running or engine.stats().waiting))
            stats = engine.stats()
            assert stats.kv_used_tokens == 0
            assert resident_bytes(engine._cache._memory) == stats.kv_resident_bytes <= most
            gc.collect()
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES)
        warm = max(sizes[: max(2, rounds // 5)])
        assert max(sizes[-3:]) <= warm * 1.02 + (4 << 20)


def test_a_short_soak(tiny: TinyBundle) -> None:
    soak(tiny, 4)


@pytest.mark.slow
def test_a_long_soak(tiny: TinyBundle) -> None:
    soak(tiny, 60)
