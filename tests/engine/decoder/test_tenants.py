"""Tenants in a real engine: who gives way answers the same; siblings share their prompt; the queue is everybody's."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_chat_model import wait_until

from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError, UsageError

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def engine(tiny: TinyBundle) -> Iterator[Engine]:
    opened = Engine.open(tiny.folder, threads=1, max_rows=4, prefill_chunk=16, replay_golden=False)
    yield opened
    opened.close()


def prompt(start: int, length: int = 30) -> tuple[int, ...]:
    return tuple(range(start, start + length))


def test_rows_that_gave_way_answer_the_same(tiny: TinyBundle, engine: Engine) -> None:
    """Also with log-probabilities of the prompt, which are told once, sampled tokens, and an adapter."""
    kinds = [
        Request(prompt(10), "base", GREEDY, max_tokens=60, logprobs=2, prompt_logprobs=2),
        Request(prompt(60), "base", Sampling(seed=3), max_tokens=60, logprobs=2),
        Request(prompt(110), "wide", GREEDY, max_tokens=60),
        Request(prompt(160), "base", Sampling(seed=4, repetition_penalty=1.2), max_tokens=60, logprobs=1),
    ]
    alone = [list(engine.generate(request)) for request in kinds]
    before, begun, go_on = engine.stats().preempted, threading.Event(), threading.Event()

    def deliver(tokens: queue.SimpleQueue[Token], token: Token) -> None:
        tokens.put(token)
        if not token.prompt:
            begun.set()
            go_on.wait(60)

    queues: list[queue.SimpleQueue[Token]] = [queue.SimpleQueue() for _ in kinds]
    with engine._changed:
        for request, tokens in zip(kinds, queues, strict=True):
            engine.submit(request, partial(deliver, tokens))
    assert begun.wait(60)
    other = [Request(prompt(300 + 40 * n), "base", GREEDY, max_tokens=5, tenant="other") for n in range(6)]
    streams = [engine.generate(request) for request in other]
    go_on.set()
    for request, stream in zip(other, streams, strict=True):
        assert [token.id for token in stream] == tiny.greedy(list(request.prompt), "base", 5)
    for tokens, expected, request in zip(queues, alone, kinds, strict=True):
        found = [tokens.get(timeout=120) for _ in expected]
        assert tokens.empty()
        if request.adapter == "base":
            assert found == expected
        assert [token.id for token in found] == [token.id for token in expected]
    assert engine.stats().preempted > before, "or nothing was tried"
    wait_until(lambda: engine.stats().kv_used_tokens == 0)


def test_choices_compute_their_prompt_once(tiny: TinyBundle, engine: Engine) -> None:
    """n = 6 in an engine with four slots."""
    before = engine.stats()
    requests = [
        Request(prompt(400, 100), "base", Sampling(seed=seed), max_tokens=8, logprobs=0) for seed in range(6)
    ]
    found = engine.generate_all(requests)
    after = engine.stats()
    assert after.reused - before.reused == 5 * 99
    assert after.tokens - before.tokens <= 100 + 6 * 8 + 16 * 8, "prompt, answers, drafts"
    with closing(Engine.open(tiny.folder, threads=1, max_rows=1, replay_golden=False)) as other:
        other._scheduler.slots.allocate = _computes_all(other)  # type: ignore[method-assign]
        assert other.generate_all(requests) == found
        assert other.stats().reused == 0


def _computes_all(engine: Engine):  # type: ignore[no-untyped-def]
    """What a slot holds is not looked at."""
    slots = engine._scheduler.slots
    allocate = type(slots).allocate

    def plain(sequence) -> None:  # type: ignore[no-untyped-def]
        slots.clear()
        allocate(slots, sequence)

    return plain


def test_a_flood_is_refused_and_another_tenant_is_not(tiny: TinyBundle) -> None:
    with closing(
        Engine.open(tiny.folder, threads=1, max_rows=1, max_waiting=16, replay_golden=False)
    ) as engine:
        running, go_on = threading.Event(), threading.Event()

        def hold(token: Token) -> None:
            running.set()
            go_on.wait(60)

        engine.submit(Request((5, 6), max_tokens=2, tenant="flood"), hold)
        assert running.wait(120)
        streams = [engine.generate(Request((5, n), max_tokens=2, tenant="flood")) for n in range(16)]
        with pytest.raises(RequestError, match="16 requests are waiting") as full:
            engine.generate(Request((5, 6), tenant="flood"))
        assert (full.value.status, full.value.code) == (429, "queue_full")
        streams += [engine.generate(Request((7, 8), max_tokens=2, tenant="calm")) for _ in range(2)]
        with pytest.raises(RequestError, match="18 requests are waiting"):
            engine.generate(Request((5, 6), tenant="calm"))
        go_on.set()
        assert [list(stream)[-1].finish for stream in streams] == ["length"] * 18


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf")])
def test_a_weight_is_above_0(weight: float) -> None:
    with pytest.raises(RequestError, match="weight must be above 0"):
        Request((5,), weight=weight)


@pytest.mark.parametrize("step_ms", [-1.0, float("inf"), float("nan")])
def test_a_step_time_is_0_or_more(tiny: TinyBundle, step_ms: float) -> None:
    with pytest.raises(UsageError, match="step_ms must be 0"):
        Engine.open(tiny.folder, step_ms=step_ms)


def test_a_prompt_that_had_no_part_in_a_failed_step_is_computed_again(
    tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step may have written into every slot, also into those of rows that it did not compute."""
    with closing(
        Engine.open(tiny.folder, threads=1, max_rows=3, prefill_chunk=4, replay_golden=False)
    ) as engine:
        long, short = prompt(10, 24), prompt(100, 40)
        compute, done = engine._step.__call__, []

        def fails(chunks: list[Chunk]) -> list[Any]:
            done.append([chunk.sequence.tokens[0] for chunk in chunks])
            if len(done) == 9:
                assert done[-1] == [100], "the other waits, with what was computed before"
                for array in engine._cache._arrays.values():
                    array[:] = 7
                raise RuntimeError("no memory")
            return compute(chunks)

        monkeypatch.setattr(engine, "_step", fails)
        monkeypatch.setattr("ptune.engine.decoder.scheduler.allocate_prefill", _turns(done))
        with engine._changed:
            failing = engine.generate(Request(short, sampling=GREEDY, max_tokens=3))
            spared = engine.generate(Request(long, sampling=GREEDY, max_tokens=3))
        assert list(failing)[-1].finish == "error"
        assert [token.id for token in spared] == tiny.greedy(list(long), "base", 3)


def _turns(done: list[Any]) -> Callable[..., dict[TokenSequence, int]]:
    """One prompt a step, in turn."""

    def allocate_prefill(
        budget: int, prompts: Sequence[TokenSequence], served: object
    ) -> dict[TokenSequence, int]:
        row = prompts[len(done) % len(prompts)] if prompts else None
        return {} if row is None else {row: min(budget, row.uncached)}

    return allocate_prefill
