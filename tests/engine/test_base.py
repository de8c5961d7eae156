"""All kinds of engines drain, close, refuse, expire and count alike."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support import encoder_bundles
from support.fake_chat_model import wait_until
from support.seq2seq_bundles import SOURCES, ids_of, make
from support.tiny_bundle import TinyBundle

from ptune.engine import base
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.seq2seq.engine import Seq2SeqEngine
from ptune.engine.seq2seq.request import Seq2SeqRequest
from ptune.errors import RequestError

DONE, CANCELLED = "done", "cancelled"
Outcome = Callable[[], str]
"""Waits for a request's end: DONE, CANCELLED or the code of its error."""


@dataclass(frozen=True)
class Kind:
    """One kind of engine. submit: queues a request of `tokens` prompt tokens, with a deadline or None."""

    open: Callable[..., Any]
    submit: Callable[[Any, float | None], Outcome]
    tokens: int


def of_future(future: Future[Any]) -> str:
    try:
        result = future.result(60)
    except CancelledError:
        return CANCELLED
    except RequestError as error:
        return str(error.code)
    return CANCELLED if getattr(result, "finish", "") == "cancelled" else DONE


def of_tokens(tokens: queue.SimpleQueue[Token]) -> str:
    while (token := tokens.get(timeout=120)).finish is None:
        pass
    refusal = token.refusal
    return str(refusal.code) if refusal else CANCELLED if token.finish == "cancelled" else DONE


@pytest.fixture(scope="module", params=["decoder", "encoder", "seq2seq"])
def kind(request: pytest.FixtureRequest, tiny: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    def to_decoder(engine: Engine, deadline_s: float | None) -> Outcome:
        tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
        engine.submit(Request((5, 6, 7), max_tokens=3, deadline_s=deadline_s), tokens.put)
        return lambda: of_tokens(tokens)

    def to_encoder(engine: EncoderEngine, deadline_s: float | None) -> Outcome:
        future = engine.submit(Item(encoder_bundles.tiny().inputs[0], "mood", deadline_s))
        return lambda: of_future(future)

    def to_seq2seq(engine: Seq2SeqEngine, deadline_s: float | None) -> Outcome:
        source = ids_of(SOURCES[0])
        job = engine.submit(Seq2SeqRequest(source, max_tokens=3, deadline_s=deadline_s))
        return lambda: of_future(job.done)

    if request.param == "decoder":
        return Kind(lambda **options: Engine.open(tiny.folder, threads=1, **options), to_decoder, 3)
    if request.param == "encoder":
        bundle = encoder_bundles.tiny().bundle
        length = len(encoder_bundles.tiny().inputs[0]["input_ids"])
        return Kind(lambda **options: EncoderEngine.open(bundle, threads=1, **options), to_encoder, length)
    made = make(tmp_path_factory.mktemp("seq2seq"), "bart")
    length = len(ids_of(SOURCES[0]))
    return Kind(lambda **options: Seq2SeqEngine.open(made.bundle, threads=1, **options), to_seq2seq, length)


@pytest.fixture
def held(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, threading.Event]]:
    """An engine for one request at a time, none of whose steps begins before the event is set."""
    go_on = threading.Event()
    with closing(kind.open(max_rows=1, max_waiting=2, replay_golden=False)) as engine:
        step = engine.metrics.step

        @contextmanager
        def waiting(batch_size: int) -> Iterator[None]:
            go_on.wait(60)
            with step(batch_size):
                yield

        monkeypatch.setattr(engine.metrics, "step", waiting)
        yield engine, go_on
        go_on.set()


def running(kind: Kind, engine: Any) -> Outcome:
    """A request that is in a step."""
    outcome = kind.submit(engine, None)
    wait_until(lambda: engine.stats().running == 1)
    return outcome


def refused(kind: Kind, engine: Any) -> tuple[int, str | None]:
    with pytest.raises(RequestError) as caught:
        kind.submit(engine, None)
    return caught.value.status, caught.value.code


def test_drain_waits_for_what_runs_and_takes_nothing_more(
    kind: Kind, held: tuple[Any, threading.Event]
) -> None:
    engine, go_on = held
    first, second = running(kind, engine), kind.submit(engine, None)
    assert not engine.drain(0.05)
    assert refused(kind, engine) == (503, "shutting_down")
    go_on.set()
    assert engine.drain(60)
    assert (first(), second()) == (DONE, DONE)
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)


def test_close_ends_everybody(kind: Kind, held: tuple[Any, threading.Event]) -> None:
    engine, go_on = held
    first, waits = running(kind, engine), kind.submit(engine, None)
    closer = threading.Thread(target=engine.close)
    closer.start()
    wait_until(lambda: engine._closing)
    go_on.set()
    closer.join(60)
    assert not closer.is_alive()
    assert first() in (DONE, CANCELLED, "shutting_down"), "its step may have been its last"
    assert waits() in (CANCELLED, "shutting_down")
    assert refused(kind, engine) == (503, "shutting_down")
    engine.close()
    assert engine.drain(60)


def graph_of(engine: Any) -> Any:
    if isinstance(engine, Engine):
        return engine._step.graphs.whole
    return engine._body._plugged if isinstance(engine, EncoderEngine) else engine._session


def test_a_closed_engine_holds_no_graph(kind: Kind) -> None:
    """At once, without Python's collector: what is opened next finds the memory free."""
    gc.disable()
    try:
        engine = kind.open(replay_golden=False)
        assert kind.submit(engine, None)() == DONE
        graph = weakref.ref(graph_of(engine))
        assert graph() is not None
        engine.close()
        assert graph() is None
        engine.close()
    finally:
        gc.enable()


def test_a_full_queue_refuses_and_goes_on(kind: Kind, held: tuple[Any, threading.Event]) -> None:
    engine, go_on = held
    outcomes = [running(kind, engine), *(kind.submit(engine, None) for _ in range(2))]
    assert engine.stats().waiting == 2
    assert refused(kind, engine) == (429, "queue_full")
    go_on.set()
    assert [outcome() for outcome in outcomes] == [DONE] * 3
    assert kind.submit(engine, None)() == DONE


def test_who_waits_past_his_deadline_is_refused(
    kind: Kind, held: tuple[Any, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, go_on = held
    now_s = [100.0]
    monkeypatch.setattr(base, "clock_s", lambda: now_s[0])
    first, late, patient = running(kind, engine), kind.submit(engine, 2.5), kind.submit(engine, 500)
    now_s[0] += 3
    go_on.set()
    assert (first(), late(), patient()) == (DONE, "deadline_exceeded", DONE)


def test_what_was_submitted_is_counted_at_its_first_step(
    kind: Kind, held: tuple[Any, threading.Event]
) -> None:
    engine, go_on = held
    outcomes = [running(kind, engine), *(kind.submit(engine, None) for _ in range(2))]
    wait_until(lambda: engine.metrics.queue_s.count == 1)
    go_on.set()
    assert [outcome() for outcome in outcomes] == [DONE] * 3
    assert (engine.metrics.queue_s.count, engine.metrics.prompt_tokens) == (3, 3 * kind.tokens)
    assert engine.metrics.batch_size.count == engine.metrics.step_s.count >= 3
