"""The engine's numbers against transformers and peft, whatever shares the batch, and its life with many requests."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.fake_chat_model import wait_until

from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.decoder.session import Session
from ptune.engine.options import EngineOptions
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError
from ptune.formats.bundle import Bundle

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


GREEDY = Sampling(temperature=0)
LIMIT = 3e-4  # of a logit, against transformers


@pytest.fixture(scope="module")
def engine(tiny: TinyBundle) -> Iterator[Engine]:
    """Small chunks and few slots, so that prompts are chunked and requests wait."""
    opened = Engine.open(tiny.folder, threads=1, max_rows=3, prefill_chunk=8, replay_golden=False)
    yield opened
    opened.close()


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 600, length).tolist() for length in lengths]


def test_adapters_move_the_reference_far_more_than_the_limit(tiny: TinyBundle) -> None:
    [ids] = prompts(12)
    base = tiny.logits(ids, "base")
    assert base.std() > 1
    assert min(abs(tiny.logits(ids, name) - base).max() for name in ("wide", "narrow")) > 1


def test_mixed_chunked_batch_has_the_logits_of_transformers_alone(tiny: TinyBundle, engine: Engine) -> None:
    ids = prompts(31, 7, 18, 1, 26, 9)
    names = ["wide", "base", "narrow", "wide", "base", "narrow"]
    for sequence, name, found in zip(ids, names, engine.logits(ids, names), strict=True):
        np.testing.assert_allclose(found, tiny.logits(sequence, name), atol=LIMIT)


def test_logits_at_some_positions_are_those_of_transformers(tiny: TinyBundle, engine: Engine) -> None:
    ids, wanted = prompts(31, 7, 18, 26), [[0, 7, 8, 30], [6], [], [*range(10, 26)]]
    names = ["wide", "base", "narrow", "wide"]
    found = engine.logits(ids, names, positions=wanted)  # chunks have 8 tokens
    for sequence, name, at, rows in zip(ids, names, wanted, found, strict=True):
        np.testing.assert_allclose(rows, tiny.logits(sequence, name)[at], atol=LIMIT)


@pytest.mark.parametrize("wanted", [[7], [-1], [3, 2], [2, 2]])
def test_positions_that_a_list_has_not_are_refused(engine: Engine, wanted: list[int]) -> None:
    with pytest.raises(ValueError, match="of 7 tokens"):
        engine.logits(prompts(7), ["base"], positions=[wanted])


def test_base_alone_runs_with_rank_0(tiny: TinyBundle, engine: Engine) -> None:
    [ids] = prompts(20)
    [found] = engine.logits([ids], ["base"])
    np.testing.assert_allclose(found, tiny.logits(ids, "base"), atol=LIMIT)


def test_greedy_tokens_are_those_of_transformers_batched_and_alone(tiny: TinyBundle, engine: Engine) -> None:
    """The reference's best two tokens must be apart by more than the numbers' noise for this to be a fair question."""
    ids = prompts(21, 3, 11, 6, 14)
    names = ["base", "wide", "narrow", "wide", "base"]
    requests = [Request(tuple(p), name, GREEDY, max_tokens=20) for p, name in zip(ids, names, strict=True)]
    expected = [tiny.greedy(p, name, 20) for p, name in zip(ids, names, strict=True)]
    for prompt, name, more in zip(ids, names, expected, strict=True):
        best = np.sort(tiny.logits(prompt + more, name)[len(prompt) - 1 : -1], axis=-1)
        assert (best[:, -1] - best[:, -2]).min() > 2 * LIMIT
    assert [[token.id for token in answer] for answer in engine.generate_all(requests)] == expected
    assert [[token.id for token in engine.generate(request)] for request in requests] == expected


def test_seeded_request_has_the_same_tokens_in_any_batch(engine: Engine) -> None:
    [prompt, *others] = prompts(9, 20, 4, 13)
    seeded = Request(tuple(prompt), "narrow", Sampling(seed=7, top_p=0.9), max_tokens=25)
    noise = [Request(tuple(p), "wide", Sampling(temperature=1.5), max_tokens=25) for p in others]
    alone = [token.id for token in engine.generate(seeded)]
    crowded = engine.generate_all([*noise, seeded])[-1]
    assert [token.id for token in crowded] == alone
    other_seed = Request(tuple(prompt), "narrow", Sampling(seed=8, top_p=0.9), max_tokens=25)
    assert [token.id for token in engine.generate(other_seed)] != alone


def test_prompt_and_output_logprobs_are_the_models_own(tiny: TinyBundle, engine: Engine) -> None:
    [prompt] = prompts(19)
    sampling = Sampling(seed=1, temperature=2.0, repetition_penalty=1.5, top_k=3)
    request = Request(tuple(prompt), "wide", sampling, max_tokens=6, logprobs=4, prompt_logprobs=4)
    answer = list(engine.generate(request))
    ids = [token.id for token in answer]
    assert ids[:19] == prompt
    assert [token.prompt for token in answer] == [True] * 19 + [False] * 6
    logits = tiny.logits(ids, "wide").astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert answer[0].logprob is None
    for position, token in enumerate(answer[1:]):
        assert token.logprob == pytest.approx(logprobs[position, token.id], abs=LIMIT)
        best = np.argsort(-logprobs[position])[:4]
        assert [top for top, _ in token.top] == best.tolist()
        assert [value for _, value in token.top] == pytest.approx(logprobs[position, best], abs=LIMIT)
        above = int((logprobs[position] > logprobs[position, token.id] + LIMIT).sum())
        near = int((logprobs[position] > logprobs[position, token.id] - LIMIT).sum())
        assert token.rank is None if not token.prompt else above < (token.rank or 0) <= near


def test_max_tokens_0_scores_the_prompt_and_ends(engine: Engine) -> None:
    [prompt] = prompts(5)
    answer = list(engine.generate(Request(tuple(prompt), max_tokens=0, prompt_logprobs=0)))
    assert [token.id for token in answer] == [*prompt, NO_TOKEN]
    assert [token.finish for token in answer] == [None] * 5 + ["length"]


def test_stop_id_ends_the_sequence_and_is_emitted(engine: Engine) -> None:
    [prompt] = prompts(8)
    free = [token.id for token in engine.generate(Request(tuple(prompt), sampling=GREEDY, max_tokens=6))]
    stopped = list(engine.generate(Request(tuple(prompt), sampling=GREEDY, stop_ids=frozenset({free[3]}))))
    first = free.index(free[3])
    assert [token.id for token in stopped] == free[: first + 1]
    assert [token.finish for token in stopped] == [None] * first + ["stop"]


def test_cancelled_request_frees_its_slot_and_leaves_the_others_right(
    tiny: TinyBundle, engine: Engine
) -> None:
    ids = prompts(16, 12, 10)
    endless = [engine.generate(Request(tuple(p), "wide", max_tokens=400)) for p in ids]
    waiting = engine.generate(Request(tuple(ids[0]), "narrow", GREEDY, max_tokens=8))  # all slots are taken
    assert [next(stream).finish for stream in endless] == [None] * 3
    assert engine.stats().waiting == 1
    endless[1].close()
    assert [token.id for token in waiting] == tiny.greedy(ids[0], "narrow", 8)
    for stream in endless:
        stream.close()
    wait_until(lambda: engine.stats().running == 0)
    wait_until(lambda: engine.stats().kv_used_tokens == 0)


def test_prompt_cancelled_halfway_leaves_nothing_behind(tiny: TinyBundle, engine: Engine) -> None:
    [short] = prompts(30)
    cancelled = Token(NO_TOKEN, finish="cancelled")
    assert any(cancelled == _first_of_a_cancelled_prompt(engine, attempt) for attempt in range(20))
    [found] = engine.logits([short], ["narrow"])  # in the same slot
    np.testing.assert_allclose(found, tiny.logits(short, "narrow"), atol=LIMIT)


def _first_of_a_cancelled_prompt(engine: Engine, attempt: int) -> Token:
    """The first token of a prompt of 480 tokens that is cancelled once its first chunk was computed: the last one, unless all of
    it was by then."""
    tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
    before = engine.stats().tokens
    long = prompts(480, seed=attempt)[0]
    ticket = engine.submit(Request(tuple(long), "wide", max_tokens=4), tokens.put)
    wait_until(lambda: engine.stats().tokens > before)
    ticket.cancel()
    first = last = tokens.get(timeout=120)
    while last.finish is None:
        last = tokens.get(timeout=120)
    assert first.finish is None or engine.stats().tokens - before < 480
    return first


def test_a_request_of_which_no_token_was_taken_is_cancelled_too(engine: Engine) -> None:
    """Python ends a generator that has not begun without running any of it."""
    before, longest = engine.stats().tokens, 400
    for _ in range(3):
        with engine._changed:  # no step is planned meanwhile
            engine.generate(Request((5, 6, 7), sampling=GREEDY, max_tokens=longest)).close()
    wait_until(lambda: not engine.stats().running + engine.stats().waiting)
    assert engine.stats().tokens - before < longest


def test_cancel_ends_with_a_last_token(engine: Engine) -> None:
    tokens: list[Token] = []
    some, over = threading.Event(), threading.Event()

    def deliver(token: Token) -> None:
        tokens.append(token)
        some.set()
        if token.finish is not None:
            over.set()

    ticket = engine.submit(Request((5, 6, 7), max_tokens=500), deliver)
    assert some.wait(10)
    ticket.cancel()
    assert over.wait(10)
    assert (tokens[-1].id, tokens[-1].finish) == (NO_TOKEN, "cancelled")
    assert len(tokens) < 500


def test_receiver_that_fails_loses_its_request_only(tiny: TinyBundle, engine: Engine) -> None:
    received: list[Token] = []

    def deliver(token: Token) -> None:
        received.append(token)
        raise ValueError("gone")

    [prompt] = prompts(9)
    healthy = engine.generate(Request(tuple(prompt), "wide", GREEDY, max_tokens=12))
    engine.submit(Request((5, 6, 7), max_tokens=400), deliver)
    assert [token.id for token in healthy] == tiny.greedy(prompt, "wide", 12)
    wait_until(lambda: engine.stats().running == 0)
    assert len(received) == 1


def test_failing_step_fails_its_requests_and_the_engine_goes_on(
    tiny: TinyBundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Session.run
    calls = []

    def fails_once(self: Session, *arrays: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no memory")
        real(self, *arrays)

    monkeypatch.setattr(Session, "run", fails_once)
    [prompt] = prompts(6)
    failed = list(engine.generate(Request(tuple(prompt), max_tokens=9)))
    assert (failed[-1].id, failed[-1].finish) == (NO_TOKEN, "error")
    assert "no memory" in (failed[-1].error or "")
    answer = engine.generate(Request(tuple(prompt), "narrow", GREEDY, max_tokens=5))
    assert [token.id for token in answer] == tiny.greedy(prompt, "narrow", 5)


@pytest.mark.parametrize(
    ("request_", "words", "status"),
    [
        (
            lambda: Request((5,), adapter="nobody"),
            "no adapter 'nobody' here; served: base, wide, narrow",
            404,
        ),
        (lambda: Request((5, 600)), "0 to 599", 400),
        (lambda: Request((-1,)), "0 to 599", 400),
        (lambda: Request(()), "at least one", 400),
        (lambda: Request((5,) * 500, max_tokens=13), "513 together; a sequence may have 512", 400),
        (lambda: Request((5,), sampling=Sampling(logit_bias={600: 1.0})), "no token 600", 400),
        (lambda: Request((5,), sampling=Sampling(temperature=-1)), "temperature must be 0 or more", 400),
        (lambda: Request((5,), sampling=Sampling(top_p=0)), "top_p must be above 0", 400),
        (lambda: Request((5,), sampling=Sampling(temperature=float("nan"))), "temperature", 400),
    ],
)
def test_what_cannot_be_served_is_refused(
    engine: Engine, request_: Callable[[], Request], words: str, status: int
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        engine.generate(request_())
    assert caught.value.status == status


def test_longest_sequence_fits(tiny: TinyBundle, engine: Engine) -> None:
    [prompt] = prompts(500)
    answer = list(engine.generate(Request(tuple(prompt), "wide", GREEDY, max_tokens=12)))
    assert [token.id for token in answer] == tiny.greedy(prompt, "wide", 12)


def test_queue_is_bounded_and_a_draining_engine_takes_nothing(tiny: TinyBundle) -> None:
    bundle = Bundle.open(tiny.folder)
    cache = KvCache.within(1 << 24, bundle.decoder, 1)
    engine = Engine(
        bundle, Graphs.open(bundle.graph_path(), bundle.decoder, 1), cache, EngineOptions(max_waiting=2)
    )
    running, go_on = threading.Event(), threading.Event()

    def hold(token: Token) -> None:
        running.set()
        go_on.wait(30)

    engine.submit(Request((5, 6), max_tokens=2), hold)
    assert running.wait(120)
    waiting = [engine.generate(Request((5, 6), max_tokens=2)) for _ in range(2)]
    with pytest.raises(RequestError, match="2 requests are waiting") as full:
        engine.generate(Request((5, 6)))
    assert full.value.status == 429
    assert not engine.drain(timeout_s=0.0)
    with pytest.raises(RequestError, match="shutting down") as draining:
        engine.generate(Request((5, 6)))
    assert draining.value.status == 503
    go_on.set()
    assert engine.drain(timeout_s=30)
    assert [list(stream)[-1].finish for stream in waiting] == ["length"] * 2
    engine.close()
    engine.close()


def test_close_ends_everybody(tiny: TinyBundle) -> None:
    engine = Engine.open(tiny.folder, threads=1, max_rows=1, replay_golden=False)
    streams = [engine.generate(Request((5, 6), max_tokens=500)) for _ in range(3)]
    next(streams[0])
    engine.close()
    assert [list(stream)[-1].finish for stream in streams] == ["cancelled"] * 3


def test_adapter_is_dropped_and_loaded_again(tiny: TinyBundle) -> None:
    engine = Engine.open(tiny.folder, threads=1, replay_golden=False)
    assert engine.adapters == ["wide", "narrow"]
    running = engine.generate(Request((5, 6, 7), "wide", GREEDY, max_tokens=6))
    engine.drop_adapter("wide")
    assert engine.adapters == ["narrow"]
    with pytest.raises(RequestError, match="served: base, narrow"):
        engine.generate(Request((5,), "wide"))
    assert [token.id for token in running] == tiny.greedy([5, 6, 7], "wide", 6)
    engine.load_adapter("wide")
    [again] = engine.generate_all([Request((5, 6, 7), "wide", GREEDY, max_tokens=6)])
    assert [token.id for token in again] == tiny.greedy([5, 6, 7], "wide", 6)
    engine.close()
