"""Sampling against transformers' logits processors and against the definitions of the OpenAI API."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ptune.engine.sampling import Sampling, choose, distribution, drawn, log_softmax, most_likely, penalised

VOCAB = 50
LOGITS = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=12)


@pytest.mark.parametrize(("sampling", "kept"), [
    (Sampling(top_p=0.75), [0, 1]),  # reached exactly
    (Sampling(top_p=0.76), [0, 1, 2]),  # of two that are as likely the one with the lower id
    (Sampling(top_p=0.5), [0]),
    (Sampling(top_p=0.01), [0]),
    (Sampling(min_p=0.5), [0, 1]),  # half as likely as the best is enough
    (Sampling(min_p=0.51), [0]),
    (Sampling(min_p=0.25), [0, 1, 2, 3]),
    (Sampling(top_k=3), [0, 1, 2, 3]),  # all that are as likely as the third
])  # fmt: skip
def test_tokens_at_the_very_edge(sampling: Sampling, kept: list[int]) -> None:
    probabilities = distribution(np.log(np.array([0.5, 0.25, 0.125, 0.125])), sampling)
    assert np.flatnonzero(probabilities).tolist() == kept
    assert probabilities.sum() == pytest.approx(1)


@settings(max_examples=200)
@given(
    logits=LOGITS,
    history=TOKENS,
    temperature=st.sampled_from([0.2, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 49, 50, 80]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    penalty=st.sampled_from([0.7, 1.0, 1.8]),
)
def test_distribution_is_that_of_transformers(
    logits: np.ndarray,
    history: list[int],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    penalty: float,
) -> None:
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(penalty),
            TemperatureLogitsWarper(temperature),
            *([TopKLogitsWarper(top_k)] if top_k else []),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
        ]
    )
    ids = torch.tensor([[0, *history]])
    expected = processors(ids, torch.tensor(logits, dtype=torch.float64)[None]).softmax(-1)[0].numpy()
    sampling = Sampling(temperature, top_p, top_k, min_p, repetition_penalty=penalty)
    scores = penalised(logits.astype(np.float64), sampling, [0], history)
    np.testing.assert_allclose(distribution(scores, sampling), expected, atol=1e-12)


@given(logits=LOGITS, prompt=TOKENS, output=TOKENS)
def test_frequency_and_presence_count_the_output_only(
    logits: np.ndarray, prompt: list[int], output: list[int]
) -> None:
    sampling = Sampling(frequency_penalty=0.3, presence_penalty=-0.7, logit_bias={3: 5.0, 4: -100.0})
    expected = logits.astype(np.float64)
    expected[3] += 5
    expected[4] -= 100
    for token in range(VOCAB):
        expected[token] -= 0.3 * output.count(token) + (-0.7 if token in output else 0)
    np.testing.assert_allclose(penalised(logits.astype(np.float64), sampling, prompt, output), expected)


def test_greedy_ties_go_to_the_lowest_id() -> None:
    logits = np.array([0, 2, 5, 5, 1], np.float32)
    assert choose(logits, Sampling(temperature=0), [0], [], seed=0) == 2
    assert choose(logits, Sampling(temperature=0, logit_bias={3: 0.5}), [0], [], seed=0) == 3


@given(
    logits=LOGITS,
    bias=st.dictionaries(
        st.integers(0, VOCAB - 1), st.sampled_from([-100.0, -1.0, 0.0, 2.0, 100.0]), max_size=6
    ),
    rounded=st.booleans(),
)
def test_greedy_takes_the_first_of_the_largest(
    logits: np.ndarray, bias: dict[int, float], rounded: bool
) -> None:
    logits = np.rint(logits) if rounded else logits  # with ties
    scores = logits.astype(np.float64)
    for token, more in bias.items():
        scores[token] += more
    assert choose(logits, Sampling(temperature=0, logit_bias=bias), [0], [], seed=0) == scores.argmax()


def test_samples_follow_the_distribution() -> None:
    logits = np.array([0.0, 1.0, 2.0, -1.0], np.float32)
    sampling = Sampling(top_k=3)
    counts = np.bincount([choose(logits, sampling, [0], [0] * n, seed=5) for n in range(20_000)], minlength=4)
    expected = np.array([1, np.e, np.e**2, 0]) / (1 + np.e + np.e**2)
    np.testing.assert_allclose(counts / 20_000, expected, atol=0.012)
    assert counts[3] == 0


@given(
    vocab=st.integers(1, 2000),
    zeros=st.floats(0, 0.999),
    seed=st.integers(0, 99),
    share=st.floats(0, 1 - 2**-53),
)
def test_a_draw_is_the_token_at_which_the_sum_passes_it(
    vocab: int, zeros: float, seed: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.exponential(1, vocab) * (random.random(vocab) >= zeros)
    probabilities[random.integers(vocab)] = 1
    token = drawn(probabilities.copy(), share)
    assert probabilities[token] > 0
    exact = np.cumsum(probabilities.astype(np.longdouble))
    target, rounding = share * exact[-1], 1e-12 * exact[-1]
    assert exact[token] > target - rounding
    assert exact[token] - probabilities[token] <= target + rounding


def test_seed_and_position_decide_the_draw() -> None:
    logits = np.zeros(1000, np.float32)

    def draws(seed: int) -> list[int]:
        return [choose(logits, Sampling(), [0], [0] * n, seed) for n in range(20)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert len(set(draws(1))) > 15  # a position does not repeat the one before
    assert draws(-1) == draws((1 << 64) - 1)


@pytest.mark.parametrize("temperature", [1e-320, 1e-9, 1e300])
def test_extreme_temperatures(temperature: float) -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    probabilities = distribution(logits.astype(np.float64), Sampling(temperature))
    expected = [1 / 3] * 3 if temperature > 1 else [0, 1, 0]
    np.testing.assert_allclose(probabilities, expected, atol=1e-12)


def test_log_softmax_and_most_likely() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (4, 100)).astype(np.float32)
    expected = torch.tensor(logits, dtype=torch.float64).log_softmax(-1)
    found = log_softmax(logits)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)
    values, ids = expected[0].topk(7)
    best = most_likely(found[0], 7)
    assert [token for token, _ in best] == ids.tolist()
    assert [value for _, value in best] == pytest.approx(values.tolist())
    assert most_likely(found[0], 0) == ()
    assert most_likely(np.array([-1.0, -0.5, -0.5, -0.5]), 2) == ((1, -0.5), (2, -0.5))
