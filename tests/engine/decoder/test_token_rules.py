"""Rules about single tokens against transformers' logits processors, and in the engine: alone, in company, speculating."""

from __future__ import annotations

import itertools
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_bundle import TinyBundle
from transformers import MinNewTokensLengthLogitsProcessor, NoBadWordsLogitsProcessor

from ptune.engine.decoder.answers.token_rules import TokenRules
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError

VOCAB = 20
PROMPT = (3, 4)
TOKEN = st.integers(0, 5)  # few, so that bad words begin often
WORDS = st.lists(st.lists(TOKEN, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple)
REPEATED = tuple([11, 12, 13, 14, 15, 16, 17, 18] * 4)
BIAS = dict.fromkeys(REPEATED[:2], 30.0)


def allowed(request: Request, output: list[int]) -> list[bool]:
    rules = TokenRules.of(request)
    mask = None if rules is None else rules.allowed(output, VOCAB)
    return [True] * VOCAB if mask is None else mask.tolist()


@settings(max_examples=300)
@given(words=WORDS, output=st.lists(TOKEN, max_size=6), least=st.integers(0, 6))
def test_the_same_tokens_are_forbidden_as_by_transformers(
    words: tuple[tuple[int, ...], ...], output: list[int], least: int
) -> None:
    """Of the output: bad words do not reach into the prompt, as in vLLM."""
    request = Request(PROMPT, bad_words=words, min_tokens=least, stop_ids=frozenset({1, 9}))
    ids = torch.tensor([[19, *output]])  # 19 is in no bad word
    scores = torch.zeros(1, VOCAB)
    if words:
        # an end-of-sequence token would be exempt from transformers' list, so it gets one that is in no word
        scores = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=18)(ids, scores)
    scores = MinNewTokensLengthLogitsProcessor(1, least, [1, 9])(ids, scores)
    assert allowed(request, output) == (scores[0] == 0).tolist()


def test_only_allowed_tokens_are_left() -> None:
    request = Request(PROMPT, allowed_token_ids=frozenset({2, 5, 7}), bad_words=((5, 7),))
    assert np.flatnonzero(allowed(request, [])).tolist() == [2, 5, 7]
    assert np.flatnonzero(allowed(request, [2, 5])).tolist() == [2, 5]
    assert np.flatnonzero(allowed(request, [5, 2])).tolist() == [2, 5, 7]


def test_a_request_without_rules_has_none() -> None:
    assert TokenRules.of(Request(PROMPT)) is None


def answers(tiny: TinyBundle, requests: list[Request], drafts: int = 0) -> list[list[Token]]:
    with closing(
        Engine.open(tiny.folder, threads=1, num_speculative_tokens=drafts, replay_golden=False)
    ) as engine:
        return engine.generate_all(requests)


def ids(answer: list[Token]) -> list[int]:
    return [token.id for token in answer]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_min_tokens_forbids_the_end_until_then(tiny: TinyBundle, temperature: float) -> None:
    """The model wants to end at once, as it would be rewarded for it."""
    sampling = Sampling(temperature=temperature, seed=1, logit_bias={7: 50.0})
    early, late = answers(
        tiny,
        [
            Request((5, 6), "wide", sampling, 20, frozenset({7}), min_tokens=least, logprobs=1)
            for least in (0, 6)
        ],
    )
    assert ids(early) == [7]
    assert 7 not in ids(late)[:6]
    assert ids(late)[6:] == [7]
    assert late[-1].finish == "stop"


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rules_are_obeyed_alike_alone_in_company_and_with_speculation(
    tiny: TinyBundle, temperature: float
) -> None:
    """The prompt repeats itself and so would the answer, but for the bad words in it."""
    sampling = Sampling(temperature=temperature, seed=5, logit_bias=BIAS)
    base = Request(REPEATED, "base", sampling, 40)
    requests = [
        base,
        Request(REPEATED, "base", sampling, 40, bad_words=((11, 12, 11), (12, 12))),
        Request(REPEATED, "wide", sampling, 40, frozenset({11}), min_tokens=9),
        Request(REPEATED, "base", sampling, 40, allowed_token_ids=frozenset(range(12, 30))),
    ]
    together = answers(tiny, requests)
    for request, answer in zip(requests, together, strict=True):
        assert ids(answers(tiny, [request])[0]) == ids(answer)
        assert ids(answers(tiny, [request], 16)[0]) == ids(answer)
    assert [ids(one) for one in answers(tiny, requests, 16)] == [ids(one) for one in together]
    free, worded, late, among = map(ids, together)
    assert free == ids(answers(tiny, [base])[0])
    pairs = [*itertools.pairwise(worded)]
    triples = [*zip(worded, worded[1:], worded[2:], strict=False)]
    assert (12, 12) not in pairs
    assert (11, 12, 11) not in triples
    assert 11 not in late[:9]
    assert set(among) <= set(range(12, 30))


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"bad_words": ((),)}, "bad_words"),
        ({"bad_words": ((600,),)}, "bad_words"),
        ({"allowed_token_ids": frozenset()}, "allowed_token_ids"),
        ({"allowed_token_ids": frozenset({600})}, "allowed_token_ids"),
        ({"allowed_token_ids": frozenset({5}), "bad_words": ((4, 5),)}, "allowed_token_ids"),
        (
            {"allowed_token_ids": frozenset({5}), "min_tokens": 1, "stop_ids": frozenset({5})},
            "allowed_token_ids",
        ),
        ({"bad_words": tuple((token,) for token in range(600))}, "bad_words"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(wrong: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        Request((5,), **wrong).require_servable(600, 512, 4)  # type: ignore[arg-type]
    assert refused.value.param == param
