"""The budget of what is thought: counted between the marks, then the tokens of the second mark are forced."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.byte_codec import ByteCodec
from support.tiny_bundle import TinyBundle

from ptune.codecs.reading import Reading
from ptune.codecs.reasoning import ReasoningFormat
from ptune.codecs.reasoning_reader import ReasoningReader
from ptune.codecs.structured_output import StructuredOutput
from ptune.engine.decoder.answers.generation import SampledSequence
from ptune.engine.decoder.answers.grammar import Grammars
from ptune.engine.decoder.answers.thinking import ThinkingBudget
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Beams, Request, Token
from ptune.engine.decoder.sequence import Chunk
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError

FORM = ReasoningFormat("<think>\n", "\n</think>\n\n")
PIECES = ["<think>", "</think>", "</", "think>", "<", "\n", "a", " <think>"]
CLOSING = (5, 6)
PROMPT = (3, 4, 9)
REPEATED = tuple([11, 12, 13, 14, 15, 16, 17, 18] * 4)


def budget(tokens: int, *, begun: bool = True, pieces: list[str] | None = None) -> ThinkingBudget:
    spelled = pieces or [f"[{number}]" for number in range(1000)]
    return ThinkingBudget(
        tokens, b"<think>", b"</think>", CLOSING, begun, lambda token: spelled[token].encode()
    )


def written(limit: ThinkingBudget, wanted: list[int]) -> list[int]:
    """What becomes of tokens that a model would choose: those that are forced come in place of some."""
    count, tokens = limit.count(), []
    for want in wanted:
        token = want if count.forced is None else count.forced
        count.advance(token)
        tokens.append(token)
    return tokens


@pytest.mark.parametrize(
    ("begun", "tokens", "wanted", "expected"),
    [
        (True, 3, "aaaaaa", "aaa\n<a"),
        (True, 0, "aaaaaa", "\n<aaaa"),
        (False, 2, "Taaaaa", "Taa\n<a"),
        (False, 0, "Taaaaa", "T\n<aaa"),
        (False, 0, "aTaaaa", "aTaaaa"),  # it does not begin with the mark
        (True, 3, "aE aaaa", "aE aaaa"),  # it ends by itself
    ],
)
def test_what_is_forced(begun: bool, tokens: int, wanted: str, expected: str) -> None:
    pieces = ["<think>", "</think>", " ", "a", "x", "\n", "<"]
    letters = {"T": 0, "E": 1, " ": 2, "a": 3, "\n": 5, "<": 6}
    found = written(budget(tokens, begun=begun, pieces=pieces), [letters[letter] for letter in wanted])
    assert found == [letters[letter] for letter in expected]


@given(
    tokens=st.lists(st.integers(0, len(PIECES) - 1), max_size=14),
    most=st.integers(0, 14),
    begun=st.booleans(),
)
def test_it_agrees_with_the_reader_of_the_text(tokens: list[int], most: int, begun: bool) -> None:
    """As long as nothing is forced; and forced it is as soon as so many tokens were thought."""
    count, reader = budget(most, begun=begun, pieces=PIECES).count(), ReasoningReader(FORM, begun=begun)
    thought = 0
    for token in tokens:
        thinks = reader.begun and not reader.over
        assert (count.forced is not None) == (thinks and thought == most)
        if count.forced is not None:
            return
        count.advance(token)
        reader.push(PIECES[token])
        thought += thinks


def answers(tiny: TinyBundle, requests: list[Request], drafts: int = 0) -> list[list[int]]:
    with closing(
        Engine.open(tiny.folder, threads=1, num_speculative_tokens=drafts, replay_golden=False)
    ) as engine:
        return [[token.id for token in answer] for answer in engine.generate_all(requests)]


def test_the_answer_goes_on_after_what_is_forced(tiny: TinyBundle) -> None:
    """Beside others, as transformers goes on after the same tokens."""
    greedy = Sampling(temperature=0)
    plain = Request(PROMPT, sampling=greedy, max_tokens=12)
    bounded = [
        Request(PROMPT, sampling=greedy, max_tokens=12, thinking=budget(most), adapter=adapter)
        for most, adapter in ((4, "base"), (0, "base"), (4, "wide"))
    ]
    free, four, none, adapted = answers(tiny, [plain, *bounded])
    assert free == tiny.greedy([*PROMPT], "base", 12)
    for found, adapter, most in ((four, "base", 4), (none, "base", 0), (adapted, "wide", 4)):
        assert found[:most] == tiny.greedy([*PROMPT], adapter, 12)[:most]
        assert tuple(found[most : most + 2]) == CLOSING
        assert found[most + 2 :] == tiny.greedy([*PROMPT, *found[: most + 2]], adapter, 10 - most)


def test_what_is_forced_where_drafts_are_computed(tiny: TinyBundle) -> None:
    sampling = Sampling(temperature=0, logit_bias=dict.fromkeys(REPEATED[:2], 30.0))
    request = Request(REPEATED, sampling=sampling, max_tokens=16, thinking=budget(5))
    assert answers(tiny, [request], drafts=8) == answers(tiny, [request])


def test_a_cut_answer_may_end_within_the_mark(tiny: TinyBundle) -> None:
    request = Request(PROMPT, sampling=Sampling(temperature=0), max_tokens=3, thinking=budget(2))
    assert answers(tiny, [request])[0][2:] == [CLOSING[0]]


def test_a_budget_that_cannot_be() -> None:
    with pytest.raises(RequestError, match="thinking_token_budget must be 0 or more"):
        budget(-1)
    with pytest.raises(RequestError, match="thinking_token_budget is not available with num_beams"):
        Request(PROMPT, sampling=Sampling(temperature=0), beams=Beams(2), thinking=budget(3))


def test_a_budget_that_ends_within_a_character_lets_a_form_have_it_whole() -> None:
    """The form takes no mark behind half of a character: the answer was refused there as too complex."""
    codec, skull = ByteCodec(reasoning=FORM), "☠".encode()
    read = replace(require(codec.reading([])), begun=True)
    form = read.formed(StructuredOutput.choice(["yes"]))
    grammar = Grammars(codec.token_table(257), codec.special_ids).compile(form.source(), codec.eos_ids)
    limit = ThinkingBudget(4, b"<think>", b"</think>", read.closing, True, codec.token_bytes)
    request = Request(
        (1,), sampling=Sampling(0), max_tokens=40, stop_ids=codec.eos_ids, grammar=grammar, thinking=limit
    )
    told: list[Token] = []
    sequence = SampledSequence(request, told.append)
    while not sequence.finished:
        logits = np.zeros((1, 257), np.float32)
        logits[0, skull[sequence.said % 3]] = 1
        sequence.cached = len(sequence.tokens)
        sequence.take(Chunk(sequence, 0, sequence.cached), logits)
        while sequence.sits_out:
            sequence.take_up()
    assert told[-1].error is None
    assert codec.decode([token.id for token in told]) == "☠☠\n</think>\n\nyes"


def require(reading: Reading | None) -> Reading:
    assert reading is not None
    return reading
