"""The choices of beam search against transformers' own, and against all answers that there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.engine.decoder.answers.beams import BeamSearch, Sequel
from ptune.engine.decoder.request import Beams, Request
from ptune.engine.sampling import Floats, Sampling, log_softmax
from ptune.errors import RequestError

VOCAB = 24
PROMPT = [5, 6, 7]
Model = Callable[[Sequence[int]], Floats]  # output so far -> log-probabilities [vocab]


def found(search: BeamSearch, model: Model) -> list[Sequel]:
    while not search.done:
        before = search.live
        parents = search.step([model(beam.tokens) for beam in search.live])
        for beam, parent in zip(search.live, parents, strict=True):
            assert beam.tokens[:-1] == before[parent].tokens
    return search.answers


@pytest.fixture(scope="module")
def models() -> list[transformers.PreTrainedModel]:
    """From nearly sure of the next token to nearly uniform."""
    made = []
    for seed, spread in enumerate((0.9, 0.5, 0.25, 0.1)):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            initializer_range=spread, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        made.append(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    return made


def generated(
    model: transformers.PreTrainedModel, beams: Beams, max_tokens: int, stop_ids: Sequence[int]
) -> list[tuple[list[int], float]]:
    """All answers of transformers, best first, without what fills them up."""
    ids = torch.tensor([PROMPT])
    told: Any = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=beams.num_beams,
        num_return_sequences=beams.num_beams, length_penalty=beams.length_penalty,
        early_stopping=beams.early_stopping, max_new_tokens=max_tokens, eos_token_id=list(stop_ids) or None,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    answers = []
    for sequence, score in zip(told.sequences.tolist(), told.sequences_scores.tolist(), strict=True):
        tokens = sequence[len(PROMPT) :]
        end = next((place + 1 for place, token in enumerate(tokens) if token in stop_ids), max_tokens)
        answers.append((tokens[:end], score))
    return answers


@settings(max_examples=60, deadline=None)
@given(
    which=st.integers(0, 3),
    beams=st.builds(
        Beams,
        num_beams=st.integers(2, 5),
        length_penalty=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
        early_stopping=st.sampled_from([False, True, "never"]),
    ),
    max_tokens=st.integers(1, 14),
    stop_ids=st.sets(st.integers(2, VOCAB - 1), max_size=3),
)
def test_the_answers_of_transformers(
    models: list[transformers.PreTrainedModel], which: int, beams: Beams, max_tokens: int, stop_ids: set[int]
) -> None:
    def model(output: Sequence[int]) -> Floats:
        with torch.no_grad():
            return log_softmax(models[which](torch.tensor([[*PROMPT, *output]])).logits[0, -1].numpy())

    answers = found(BeamSearch(beams, max_tokens, stop_ids), model)
    expected = generated(models[which], beams, max_tokens, sorted(stop_ids))
    assert [list(answer.tokens) for answer in answers] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose(
        [answer.score for answer in answers], [score for _, score in expected], rtol=1e-4, atol=1e-5
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.1, 4))
def test_beams_enough_for_all_find_the_best_answer_that_there_is(
    seed: int, longest: int, spread: float
) -> None:
    """Token 0 of 3 ends an answer, and no penalty favours any length."""
    table: dict[tuple[int, ...], Floats] = {}
    random = np.random.default_rng(seed)
    for length in range(longest):
        for output in itertools.product((1, 2), repeat=length):
            table[output] = log_softmax(random.normal(0, spread, 3).astype(np.float32))
    every: dict[tuple[int, ...], float] = {}
    for output in table:
        total = sum(table[output[:place]][token] for place, token in enumerate(output))
        for token in range(3):
            if token == 0 or len(output) + 1 == longest:
                every[*output, token] = float(total + table[output][token])
    search = BeamSearch(Beams(3**longest, length_penalty=0, early_stopping="never"), longest, {0})
    answers = found(search, lambda output: table[tuple(output)])
    best = max(every, key=lambda output: every[output])
    assert answers[0].tokens == search.best().tokens == best
    assert answers[0].score == pytest.approx(every[best])
    for answer in answers:
        assert answer.score == pytest.approx(every[answer.tokens])


def test_however_many_end_every_beam_is_continued() -> None:
    """Three stop tokens are likelier than anything else."""
    search = BeamSearch(Beams(2), 9, {0, 1, 2})
    for continued in ([(3,), (4,)], [(3, 3), (3, 4)]):  # .1 and .08; then .1 × .1 and .1 × .08 = .08 × .1
        search.step([np.log(np.array([0.3, 0.25, 0.2, 0.1, 0.08, 0.07])) for _ in search.live])
        assert [tuple(beam.tokens) for beam in search.live] == continued


def test_the_best_before_the_end() -> None:
    search = BeamSearch(Beams(2, length_penalty=1.0), 9, {0})
    first = np.log(np.array([0.1, 0.5, 0.4]))
    assert search.step([first]) == [0, 0]
    assert search.best().score == pytest.approx(np.log(0.5))
    assert search.best().tokens == (1,)
    ending, going = np.log(np.array([0.9, 0.05, 0.05])), np.log(np.array([0.2, 0.4, 0.4]))
    assert search.step([going, ending]) == [0, 0]
    assert not search.done
    assert search.best().score == pytest.approx(np.log(0.4 * 0.9) / 2)
    assert search.best().tokens == (2, 0)


@pytest.mark.parametrize(
    ("param", "values"),
    [
        ("num_beams", {"num_beams": 1}),
        ("length_penalty", {"num_beams": 2, "length_penalty": float("nan")}),
        ("early_stopping", {"num_beams": 2, "early_stopping": "always"}),
    ],
)
def test_beams_out_of_range(param: str, values: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=param) as raised:
        Beams(**values)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("temperature", {"sampling": Sampling()}),
        ("top_p", {"sampling": Sampling(temperature=0, top_p=0.5)}),
        ("repetition_penalty", {"sampling": Sampling(temperature=0, repetition_penalty=1.1)}),
        ("logit_bias", {"sampling": Sampling(temperature=0, logit_bias={1: 1.0})}),
        ("logprobs", {"logprobs": 0}),
        ("prompt_logprobs", {"prompt_logprobs": 0}),
        ("num_beams", {"grammar": object()}),
        ("max_tokens", {"max_tokens": 0}),
    ],
)
def test_what_beams_cannot_be_combined_with(param: str, fields: dict[str, Any]) -> None:
    greedy: dict[str, Any] = {"sampling": Sampling(temperature=0, seed=3)}
    Request((1,), **greedy, beams=Beams(2))
    with pytest.raises(RequestError, match="num_beams") as raised:
        Request((1,), **{**greedy, **fields}, beams=Beams(2))
    assert raised.value.param == param
