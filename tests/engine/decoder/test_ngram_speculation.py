"""Guessing changes no answer, only how many steps it takes."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.answers.generation import SampledSequence
from ptune.engine.decoder.drafts.ngram import LONGEST, MATCH, PATIENCE, NgramProposer
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence
from ptune.engine.sampling import Sampling

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


REPEATED = tuple([11, 12, 13, 14, 15, 16, 17, 18] * 4)


def answers(tiny: TinyBundle, requests: list[Request], drafts: int) -> tuple[list[list[Token]], int]:
    with closing(
        Engine.open(tiny.folder, threads=1, num_speculative_tokens=drafts, replay_golden=False)
    ) as engine:
        return engine.generate_all(requests), engine.stats().steps


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_same_tokens_in_fewer_steps(tiny: TinyBundle, temperature: float) -> None:
    """A bias makes the model repeat its prompt's tokens, as editing does."""
    bias = dict.fromkeys(REPEATED[:2], 30.0)
    sampling = Sampling(temperature=temperature, seed=5, logit_bias=bias)
    requests = [Request(REPEATED, name, sampling, max_tokens=60, logprobs=2) for name in ("base", "wide")]
    (plain, many), (guessed, few) = answers(tiny, requests, 0), answers(tiny, requests, 16)
    assert [[(t.id, t.finish) for t in one] for one in plain] == [
        [(t.id, t.finish) for t in one] for one in guessed
    ]
    assert plain[0] == guessed[0], "the base's log-probabilities are the same bits, too"
    assert len(plain[0]) == 60
    assert few < 0.7 * many


@pytest.mark.parametrize(("most", "longest"), [(1, 0), (2, 1), (3, 2), (5, 4), (60, 4)])
def test_a_draft_ends_before_the_answers_last_token(most: int, longest: int) -> None:
    """The slot has room for the prompt and `most` tokens, and the model's own choice follows every draft."""
    sequence = SampledSequence(Request(REPEATED, "base", Sampling(temperature=0), max_tokens=most), print)
    assert len(sequence.draft(16)) == longest


def test_nothing_is_lost_where_drafts_fail(tiny: TinyBundle) -> None:
    """At a high temperature nothing repeats: a draft now and then, never a wrong token."""
    requests = [
        Request(REPEATED, "base", Sampling(temperature=2.0, seed=seed), max_tokens=80) for seed in range(6)
    ]
    (plain, _), (guessed, _) = answers(tiny, requests, 0), answers(tiny, requests, 16)
    assert plain == guessed


def test_stops_where_it_should(tiny: TinyBundle) -> None:
    sampling = Sampling(temperature=0, logit_bias=dict.fromkeys(REPEATED[:1], 30.0))
    requests = [Request(REPEATED, "base", sampling, max_tokens=most) for most in (1, 2, 7)]
    for answer, request in zip(answers(tiny, requests, 16)[0], requests, strict=True):
        assert (len(answer), answer[-1].finish) == (request.max_tokens, "length")


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 20))
def test_a_draft_repeats_the_tokens_after_the_last_run_like_this(tokens: list[int], most: int) -> None:
    draft = NgramProposer().propose(tokens, most)
    assert len(draft) <= min(most, LONGEST)
    run = tokens[-MATCH:]
    places = [end for end in range(MATCH, len(tokens)) if tokens[end - MATCH : end] == run]
    if most and len(tokens) >= MATCH and places:
        assert list(draft) == tokens[places[-1] : places[-1] + len(draft)]
        assert draft
    else:
        assert draft == ()


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=30))
def test_failures_make_it_pause_and_success_ends_that(told: list[tuple[int, int]]) -> None:
    proposer, tokens, failed = NgramProposer(), [1, 2, 3] * 5, 0
    for guessed, right in told:
        right = min(guessed, right)
        proposer.observe(len(tokens), guessed, right)
        failed = 0 if right else failed + 1
        if failed:
            assert proposer.propose(tokens, 9) == ()
            tokens += [1, 2, 3] * (PATIENCE // 3 + 1)
        assert proposer.propose(tokens, 9)


@given(st.integers(1, 40), st.integers(0, 32))
def test_drafts_of_a_step_are_bounded(sequences: int, drafts: int) -> None:
    class Eager(TokenSequence):
        def draft(self, most: int) -> tuple[int, ...]:
            return tuple(range(most))

    scheduler = Scheduler(sequences, 64, sequences, drafts)
    for _ in range(sequences):
        sequence: Any = Eager([1])
        scheduler.submit(sequence)
    chunks = scheduler.plan()
    assert sum(len(chunk.draft) for chunk in chunks) <= drafts
    assert all(len(chunk) == 1 + drafts // sequences for chunk in chunks)


@pytest.mark.parametrize(
    ("eager", "adapters", "guessed"),
    [(16, 0, True), (4, 0, True), (3, 0, False), (16, 16, True), (12, 16, True), (11, 16, False)],
)
def test_few_drafts_among_many_sequences_are_none(eager: int, adapters: int, guessed: bool) -> None:
    """All chunks are padded to the longest, so that the first draft token costs as much as the others together."""

    class Eager(TokenSequence):
        def draft(self, most: int) -> tuple[int, ...]:
            return (7,) * min(most, 1)

    scheduler = Scheduler(16, 64, 16, 16)
    for at in range(16):
        sequence: Any = (Eager if at < eager else TokenSequence)(
            [1], Adapter(str(at), 1, {}, 0) if at < adapters else None
        )
        scheduler.submit(sequence)
    assert sum(len(chunk.draft) for chunk in scheduler.plan()) == (eager if guessed else 0)
