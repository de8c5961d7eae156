"""The engine of an encoder-decoder where something goes wrong: deadlines, cancelled requests, passes that fail, an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Event
from typing import Any

import numpy as np
import pytest
from support.fake_chat_model import wait_until
from support.seq2seq_bundles import SOURCES, Made, generated, ids_of, make

from ptune.engine.options import BatchKeywords
from ptune.engine.seq2seq.engine import Seq2SeqEngine
from ptune.engine.seq2seq.request import Seq2SeqRequest
from ptune.errors import FormatError, PtuneError, RequestError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("seq2seq"), "bart")


@pytest.fixture
def engine(made: Made) -> Iterator[Seq2SeqEngine]:
    with closing(Seq2SeqEngine.open(made.bundle, threads=1, max_rows=2, max_waiting=3)) as engine:
        yield engine


def test_options_that_cannot_be_are_refused(made: Made) -> None:
    wrong: list[BatchKeywords] = [{"max_rows": 0}, {"max_waiting": 0}, {"threads": -1}]
    for options in wrong:
        with pytest.raises(UsageError, match="must be 1 or more"):
            Seq2SeqEngine.open(made.bundle, **options)
    with pytest.raises(FormatError, match="no profile 'int8'"):
        Seq2SeqEngine.open(made.bundle, profile="int8")


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_short_target_begins_and_ends_as_transformers_forces_it(
    made: Made, engine: Seq2SeqEngine, most: int
) -> None:
    request = Seq2SeqRequest(ids_of(SOURCES[0]), "one", max_tokens=most)
    found = engine.submit(request).result(30)
    assert (found.ids, found.finish) == (generated(made, "one", SOURCES[0], most), "length")


def held(engine: Seq2SeqEngine, monkeypatch: pytest.MonkeyPatch) -> Event:
    """Until it is set, no decoding step comes to its end."""
    go_on, decode = Event(), engine._session.decode

    def waiting(*arguments: Any) -> object:
        go_on.wait(30)
        return decode(*arguments)

    monkeypatch.setattr(engine._session, "decode", waiting)
    return go_on


def test_a_full_queue_refuses_and_what_is_cancelled_leaves_it_at_once(
    engine: Seq2SeqEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = held(engine, monkeypatch)
    running = [engine.submit(Seq2SeqRequest((5, 2), max_tokens=64)) for _ in range(2)]
    wait_until(lambda: engine.stats().running)
    room = 3 - engine.stats().waiting  # the second may not have joined the first
    waiting = [engine.submit(Seq2SeqRequest((5, 2), max_tokens=4)) for _ in range(room)]
    with pytest.raises(RequestError, match="requests are waiting") as refused:
        engine.submit(Seq2SeqRequest((5, 2), max_tokens=4))
    assert refused.value.status == 429
    for ticket in (*waiting, *running):
        ticket.cancel()
    go_on.set()
    assert {ticket.result(30).finish for ticket in (*waiting, *running)} <= {"cancelled", "stop"}
    assert all(not ticket.result().ids for ticket in waiting if ticket.result().finish == "cancelled")
    wait_until(lambda: engine.stats().running == engine.stats().waiting == 0)
    assert engine.submit(Seq2SeqRequest((5, 2), max_tokens=2)).result(30).ids


def test_who_waits_too_long_fails_and_what_was_begun_is_kept(
    engine: Seq2SeqEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match=r"deadline of 1e-09 s passed before its first token") as late:
        engine.submit(Seq2SeqRequest(ids_of(SOURCES[0]), "one", deadline_s=1e-9, max_tokens=9)).result(30)
    assert (late.value.status, late.value.code) == (503, "deadline_exceeded")
    whole = engine.submit(Seq2SeqRequest(ids_of(SOURCES[0]), max_tokens=60)).result(30)
    go_on = held(engine, monkeypatch)
    ticket = engine.submit(Seq2SeqRequest(ids_of(SOURCES[0]), max_tokens=60, deadline_s=3600))
    wait_until(lambda: engine.stats().running)
    ticket.deadline_s -= 3600  # the step that is being computed is its last
    go_on.set()
    cut = ticket.result(30)
    assert cut.finish == "length"
    assert 0 < len(cut.ids) < len(whole.ids)
    assert cut.ids == whole.ids[: len(cut.ids)]


def test_a_pass_that_fails_ends_its_own_rows_alone(
    engine: Seq2SeqEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no memory")

    sentence = Seq2SeqRequest(ids_of(SOURCES[0]), "one", max_tokens=20)
    expected = engine.submit(sentence).result(30)
    go_on = held(engine, monkeypatch)
    kept = engine.submit(sentence)
    wait_until(lambda: engine.stats().running)
    with monkeypatch.context() as patch:
        patch.setattr(engine._session, "encode", broken)
        lost = engine.submit(Seq2SeqRequest(ids_of(SOURCES[1]), max_tokens=9))
        go_on.set()
        with pytest.raises(PtuneError, match="could not compute this: no memory"):
            lost.result(30)
    assert kept.result(30) == expected
    with monkeypatch.context() as patch:
        patch.setattr(engine._session, "decode", broken)
        for ticket in [engine.submit(sentence) for _ in range(2)]:
            with pytest.raises(PtuneError, match="no memory"):
                ticket.result(30)
    assert engine.metrics.failed >= 2
    assert engine.submit(sentence).result(30) == expected
    wait_until(lambda: not engine.stats().running)


def test_an_end_is_told_to_who_waits_for_it(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Seq2SeqEngine.open(made.bundle, threads=1, max_rows=1)) as engine:
        go_on = held(engine, monkeypatch)
        tickets = [
            engine.submit(Seq2SeqRequest(ids_of(SOURCES[0]), name, 60)) for name in ("base", "one", "two")
        ]
        wait_until(lambda: engine.stats().running)
        engine._closing = True  # as `close` does; the step that runs may end first
        go_on.set()
        for ticket in tickets:
            with pytest.raises(RequestError, match="shutting down"):
                ticket.result(30)
    with pytest.raises(RequestError, match="shutting down"):
        engine.submit(Seq2SeqRequest((5,)))


def test_adapters_that_do_not_fit_together_are_read_when_they_are_asked_for(made: Made) -> None:
    asked = [(name, text) for text in SOURCES for name in ("one", "two", "base")]
    with closing(Seq2SeqEngine.open(made.bundle, threads=1)) as engine:
        held_bytes = engine.adapter_stats().bytes
        expected = [
            one.ids
            for one in engine.generate([Seq2SeqRequest(ids_of(text), name, 9) for name, text in asked])
        ]
    with closing(Seq2SeqEngine.open(made.bundle, threads=1, adapter_bytes=held_bytes - 1)) as engine:
        tickets = [engine.submit(Seq2SeqRequest(ids_of(text), name, 9)) for name, text in asked]
        assert [ticket.result(30).ids for ticket in tickets] == expected
        stats = engine.adapter_stats()
        assert stats.in_memory == 1
        assert stats.loads > 2


def test_an_output_that_is_no_number_is_no_target(
    engine: Seq2SeqEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest of such logits is the first of them that is no number; the other rows of the step go on."""
    decode = engine._session.decode

    def broken(inputs: Any, factors: Any) -> Any:
        logits, new = decode(inputs, factors)
        logits[inputs["lengths"] == 3, 0, 7] = np.nan
        return logits, new

    monkeypatch.setattr(engine._session, "decode", broken)
    with engine._changed:  # so that they share every step
        bad = engine.submit(Seq2SeqRequest((5, 6, 2), max_tokens=4))
        good = engine.submit(Seq2SeqRequest((5, 2), max_tokens=4))
    with pytest.raises(PtuneError, match="is not a number"):
        bad.result(30)
    found = good.result(30).ids
    monkeypatch.setattr(engine._session, "decode", decode)
    assert found == engine.submit(Seq2SeqRequest((5, 2), max_tokens=4)).result(30).ids
    wait_until(lambda: not engine.stats().running)
