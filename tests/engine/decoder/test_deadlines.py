"""Requests with a deadline, by a clock that the test sets."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from ptune.engine import base
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


GREEDY = Sampling(temperature=0)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(base, "clock_s", clock)
    return clock


@pytest.fixture(scope="module")
def engine(tiny: TinyBundle) -> Iterator[Engine]:
    opened = Engine.open(tiny.folder, threads=1, max_rows=1, prefill_chunk=8, replay_golden=False)
    yield opened
    opened.close()


class Held:
    """A request that stops the engine's thread at its first token, until it is let go."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
        self._running, self._go = threading.Event(), threading.Event()
        engine.submit(request, self._deliver)
        assert self._running.wait(120)

    def _deliver(self, token: Token) -> None:
        self.tokens.put(token)
        self._running.set()
        self._go.wait(60)

    def let_go(self) -> list[Token]:
        self._go.set()
        found = [self.tokens.get(timeout=120)]
        while found[-1].finish is None:
            found.append(self.tokens.get(timeout=120))
        return found


def test_one_that_has_begun_keeps_what_it_said(tiny: TinyBundle, engine: Engine, clock: Clock) -> None:
    held = Held(engine, Request((5, 6, 7), sampling=GREEDY, max_tokens=400, deadline_s=30))
    clock.now_s += 31
    tokens = held.let_go()
    assert (tokens[-1].id, tokens[-1].finish) == (NO_TOKEN, "length")
    assert [token.id for token in tokens[:-1]] == tiny.greedy([5, 6, 7], "base", 1)


def test_one_that_waited_too_long_is_refused_and_others_go_on(
    tiny: TinyBundle, engine: Engine, clock: Clock
) -> None:
    held = Held(engine, Request((5, 6, 7), max_tokens=3))
    late = engine.generate(Request((5, 6), sampling=GREEDY, max_tokens=3, deadline_s=2.5))
    patient = engine.generate(Request((8, 9), sampling=GREEDY, max_tokens=3, deadline_s=500))
    clock.now_s += 3
    held.let_go()
    [token] = late
    assert (token.id, token.finish, token.expired) == (NO_TOKEN, "error", True)
    refusal = token.refusal
    assert isinstance(refusal, RequestError)
    assert (refusal.status, refusal.code) == (503, "deadline_exceeded")
    assert "deadline of 2.5 s passed before its first token" in str(refusal)
    assert [token.id for token in patient] == tiny.greedy([8, 9], "base", 3)


def test_one_whose_adapter_is_being_read_wakes_the_engine(
    tiny: TinyBundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else happens in the engine: it has to wait no longer than the deadline."""
    go = threading.Event()
    monkeypatch.setattr(engine._registry._cache, "take", lambda name: None)  # not in memory
    monkeypatch.setattr(engine._registry, "_load_wanted", lambda *_: go.wait(60))
    tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
    engine.submit(Request((5, 6), "wide", deadline_s=0.01), tokens.put)
    try:
        assert tokens.get(timeout=120).expired
    finally:
        engine._registry._wanted.clear()
        go.set()


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_deadline_is_a_time_to_come(deadline_s: float) -> None:
    with pytest.raises(RequestError, match="deadline_s must be above 0 seconds"):
        Request((5,), deadline_s=deadline_s)


@pytest.mark.parametrize("deadline_s", [1e10, 1e300])
def test_a_deadline_beyond_all_clocks_stops_nobody(
    tiny: TinyBundle, engine: Engine, monkeypatch: pytest.MonkeyPatch, deadline_s: float
) -> None:
    """The system waits for 292 years at most, and the engine's thread would end by asking it for more."""
    go, load = threading.Event(), engine._registry._load_wanted
    monkeypatch.setattr(engine._registry._cache, "take", lambda name: None)  # not in memory
    monkeypatch.setattr(engine._registry, "_load_wanted", lambda *given: (go.wait(60), load(*given)))
    tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
    ticket = engine.submit(Request((5, 6), "wide", deadline_s=deadline_s), tokens.put)
    try:
        with pytest.raises(queue.Empty):
            tokens.get(timeout=0.3)
    finally:
        ticket.cancel()
        engine._registry._wanted.clear()
        go.set()
    assert len(list(engine.generate(Request((5, 6), sampling=GREEDY, max_tokens=3)))) == 3
