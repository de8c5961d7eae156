"""Grammars and masks that take long hold up nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.tiny_grammars import END, GRAMMARS

from ptune.codecs.structured_output import StructuredOutput
from ptune.engine.decoder.answers import grammar
from ptune.engine.decoder.answers.grammar import Grammars
from ptune.errors import RequestError


@pytest.fixture
def busy() -> Iterator[threading.Event]:
    """The thread that compiles is at another's grammar until this is set."""
    ended = threading.Event()
    for pool in (grammar._small, grammar._small, grammar._large):
        pool.submit(ended.wait, 30)
    yield ended
    ended.set()


def test_the_time_that_others_take_does_not_count(
    busy: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "COMPILE_LIMIT_S", 2.0)
    own = StructuredOutput.choice(["the time of others"]).source()
    threading.Timer(2.5, busy.set).start()
    assert GRAMMARS.compile(own, END).walk().allowed().any()


def test_where_others_take_too_long_one_is_told_to_come_again(
    busy: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "TURN_LIMIT_S", 0.05)
    own = StructuredOutput.choice(["to come again"]).source()
    with pytest.raises(RequestError, match="try again") as refused:
        GRAMMARS.compile(own, END)
    assert refused.value.status == 503
    busy.set()
    monkeypatch.setattr(grammar, "TURN_LIMIT_S", 30)
    assert GRAMMARS.compile(own, END).walk().allowed().any()


def test_a_small_grammar_does_not_wait_for_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "TURN_LIMIT_S", 30)
    go_on, begun = threading.Event(), threading.Event()
    compiled = Grammars._compile

    def slow(made: Grammars, source: str, *given: Any) -> Any:
        if len(source) > 2**14:
            begun.set()
            assert go_on.wait(120)
        return compiled(made, source, *given)

    monkeypatch.setattr(Grammars, "_compile", slow)
    large = [StructuredOutput.choice([f"{letter} {number}" for number in range(3000)]) for letter in "ab"]
    with ThreadPoolExecutor() as pool:
        walks = [pool.submit(GRAMMARS.compile, one.source(), END) for one in large]
        assert begun.wait(60)
        small = StructuredOutput.choice(["not behind the large ones"])
        assert GRAMMARS.compile(small.source(), END).walk().allowed().any()
        assert not any(walk.done() for walk in walks)
        go_on.set()
        assert all(walk.result(120).walk().allowed().any() for walk in walks)


def test_masks_that_take_long_have_a_thread_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    form = GRAMMARS.compile(StructuredOutput.choice(["slow", "slower"]).source(), END)
    assert not form.slow
    monkeypatch.setattr(grammar, "SLOW_S", 0.0)
    walk = form.walk()
    assert walk.allowed().any()
    assert form.slow
    monkeypatch.setattr(grammar, "SLOW_S", 1.0)
    ended = threading.Event()
    held = grammar._slow_masks.submit(ended.wait, 120)
    walk.advance(int(np.flatnonzero(walk.allowed())[0]))
    other = GRAMMARS.compile(StructuredOutput.choice(["quick"]).source(), END).walk()
    assert other.allowed().any()
    assert not walk.ready()
    ended.set()
    assert held.result(120)
    assert walk.allowed().any()
