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
from ptune.errors import PtuneError, RequestError
from ptune.formats.bundle import BASE

DONE, CANCELLED = "done", "cancelled"
STOPPED = "the engine has stopped: Defect: of the loop"
Outcome = Callable[[], str]
"""Waits for a request's end: DONE, CANCELLED, the code of its error, or what the engine says of its own."""


@dataclass(frozen=True)
class Kind:
    """One kind of engine. submit: queues a request of `tokens` prompt tokens, with a deadline or None. adapter: that it has."""

    open: Callable[..., Any]
    submit: Callable[..., Outcome]
    tokens: int
    adapter: str


def of_future(future: Future[Any]) -> str:
    try:
        result = future.result(60)
    except CancelledError:
        return CANCELLED
    except RequestError as error:
        return str(error.code)
    except PtuneError as error:
        return str(error)
    return CANCELLED if getattr(result, "finish", "") == "cancelled" else DONE


def of_tokens(tokens: queue.SimpleQueue[Token]) -> str:
    while (token := tokens.get(timeout=120)).finish is None:
        pass
    refusal = token.refusal
    if token.finish == "error" and not refusal:
        return str(token.error)
    return str(refusal.code) if refusal else CANCELLED if token.finish == "cancelled" else DONE


@pytest.fixture(scope="module", params=["decoder", "encoder", "seq2seq"])
def kind(request: pytest.FixtureRequest, tiny: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    def to_decoder(engine: Engine, deadline_s: float | None, adapter: str = BASE) -> Outcome:
        tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
        engine.submit(Request((5, 6, 7), adapter, max_tokens=3, deadline_s=deadline_s), tokens.put)
        return lambda: of_tokens(tokens)

    def to_encoder(engine: EncoderEngine, deadline_s: float | None, adapter: str = "mood") -> Outcome:
        future = engine.submit(Item(encoder_bundles.tiny().inputs[0], adapter, deadline_s))
        return lambda: of_future(future)

    def to_seq2seq(engine: Seq2SeqEngine, deadline_s: float | None, adapter: str = BASE) -> Outcome:
        source = ids_of(SOURCES[0])
        job = engine.submit(Seq2SeqRequest(source, adapter, max_tokens=3, deadline_s=deadline_s))
        return lambda: of_future(job.done)

    if request.param == "decoder":
        adapter = next(iter(tiny.models.keys() - {BASE}))
        return Kind(lambda **options: Engine.open(tiny.folder, threads=1, **options), to_decoder, 3, adapter)
    if request.param == "encoder":
        bundle = encoder_bundles.tiny().bundle
        length = len(encoder_bundles.tiny().inputs[0]["input_ids"])
        return Kind(
            lambda **options: EncoderEngine.open(bundle, threads=1, **options), to_encoder, length, "mood"
        )
    made = make(tmp_path_factory.mktemp("seq2seq"), "bart")
    length = len(ids_of(SOURCES[0]))
    adapter = next(iter(made.bundle.manifest.adapters))
    return Kind(
        lambda **options: Seq2SeqEngine.open(made.bundle, threads=1, **options), to_seq2seq, length, adapter
    )


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


def test_what_can_wait_is_done_while_nobody_waits(kind: Kind, held: tuple[Any, threading.Event]) -> None:
    engine, go_on = held
    outcome, busy = running(kind, engine), list[int]()

    def tidy() -> bool:
        busy.append(engine.stats().running)
        return len(busy) < 3

    engine._tidy = tidy
    engine._wake()
    assert not busy
    go_on.set()
    assert outcome() == DONE
    wait_until(lambda: engine._tidy is None)
    assert busy == [0, 0, 0]
    assert kind.submit(engine, None)() == DONE


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


class Defect(BaseException):
    """Nothing that the engine expects."""


def out_of_the_loop(engine: Any, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's next turn ends its thread. where: the method that fails, after it has done its work."""
    work = getattr(engine, where)

    def failing(*given: Any) -> Any:
        found = work(*given)
        if found:
            raise Defect("of the loop")
        return found

    monkeypatch.setattr(engine, where, failing)


@pytest.mark.parametrize("where", ["_next_batch", "_drop_ended"])
def test_a_thread_that_ends_by_a_defect_leaves_nobody_waiting(
    kind: Kind,
    held: tuple[Any, threading.Event],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    """Neither who runs, nor who waits, nor who was just taken out of the queue and is in no list any longer."""
    engine, go_on = held
    now_s = [100.0]
    monkeypatch.setattr(base, "clock_s", lambda: now_s[0])
    outcomes = [running(kind, engine), kind.submit(engine, 2.5), kind.submit(engine, None)]
    assert engine.metrics.stopped is None
    out_of_the_loop(engine, where, monkeypatch)
    now_s[0] += 3
    go_on.set()
    first, *others = [outcome() for outcome in outcomes]
    assert first in (DONE, STOPPED), "an encoder's step is all that a request needs"
    assert others == [STOPPED] * 2
    assert engine.metrics.stopped == "a thread of the engine has ended by Defect"
    assert refused(kind, engine) == (503, "engine_stopped")
    assert engine.drain(60), "nobody is waited for"
    engine.close()
    [told] = [record for record in caplog.records if record.exc_info]
    assert told.exc_info is not None
    assert told.exc_info[0] is Defect


def test_a_reader_of_adapters_that_ends_by_a_defect_leaves_nobody_waiting(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(kind.open(replay_golden=False)) as engine:
        engine._registry._cache.drop(kind.adapter)
        go_on = threading.Event()

        def failing(*_: Any) -> None:
            go_on.wait(60)
            raise Defect("of the loop")

        monkeypatch.setattr(engine._registry, "_load_wanted", failing)
        outcome = kind.submit(engine, None, kind.adapter)
        go_on.set()
        assert outcome() == STOPPED
        assert refused(kind, engine) == (503, "engine_stopped")
