"""From logits to the next token. Everything is per row: what else is in the batch changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.request import Sampling
from ptune.errors import PtuneError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    """Log-probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def most_likely(logprobs: Floats, n: int) -> tuple[tuple[int, float], ...]:
    """The n most likely tokens of [vocab] and their log-probabilities, best first; ties by the lower id."""
    if n == 0:
        return ()
    least = np.partition(logprobs, -n)[-n]
    candidates = np.flatnonzero(logprobs >= least)
    best = candidates[np.argsort(-logprobs[candidates], kind="stable")][:n]
    return tuple((int(token), float(logprobs[token])) for token in best)


def choose(
    logits: npt.NDArray[np.float32],
    sampling: Sampling,
    prompt: Sequence[int],
    output: Sequence[int],
    seed: int,
    allowed: Bools | None = None,
) -> int:
    """The next token after `prompt` and `output`, from logits [vocab]. Depends on its arguments alone.

    allowed: the tokens [vocab] to choose from; default: all.

    Raises: PtuneError where the model excludes all of them.
    """
    scores = penalised(logits.astype(np.float64), sampling, prompt, output)
    if allowed is not None:
        scores[~allowed] = -np.inf
        if scores.max() == -np.inf:
            raise PtuneError("the model gives no token a chance that may come here")
    if sampling.temperature == 0:
        return int(scores.argmax())  # the first of equals
    probabilities = distribution(scores, sampling)
    candidates = np.flatnonzero(probabilities)
    cumulative = np.cumsum(probabilities[candidates])
    draw = _uniform(seed, len(prompt) + len(output)) * cumulative[-1]
    return int(candidates[min(np.searchsorted(cumulative, draw, side="right"), len(candidates) - 1)])


def penalised(scores: Floats, sampling: Sampling, prompt: Sequence[int], output: Sequence[int]) -> Floats:
    """Scores [vocab] with bias and penalties, in place.

    The repetition penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858) looks at prompt and output, frequency
    and presence penalty at the output alone, as in the OpenAI API.
    """
    for token, bias in sampling.logit_bias.items():
        scores[token] += bias
    if sampling.repetition_penalty != 1:
        seen = np.unique(np.array([*prompt, *output]))
        factor = sampling.repetition_penalty
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * factor, scores[seen] / factor)
    if output and (sampling.frequency_penalty or sampling.presence_penalty):
        seen, times = np.unique(np.array(output), return_counts=True)
        scores[seen] -= sampling.frequency_penalty * times + sampling.presence_penalty
    return scores


def distribution(scores: Floats, sampling: Sampling) -> Floats:
    """Probabilities [vocab] after temperature, top_k, top_p and min_p; what is cut off has 0."""
    with np.errstate(over="ignore"):  # a temperature near 0 sends all but the best to -inf, which is right
        probabilities: Floats = np.exp((scores - scores.max()) / sampling.temperature)
    if 0 < sampling.top_k < len(scores):
        probabilities[scores < np.partition(scores, -sampling.top_k)[-sampling.top_k]] = 0
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        probabilities[_outside_nucleus(probabilities, sampling.top_p)] = 0
    if sampling.min_p > 0:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0
    probabilities /= probabilities.sum()
    return probabilities


def _outside_nucleus(probabilities: Floats, top_p: float) -> npt.NDArray[np.intp]:
    """Tokens beyond the fewest that together reach top_p (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751)."""
    # All tokens below (1 - top_p) / vocab together have less than 1 - top_p: they are outside without being sorted.
    far = probabilities < (1 - top_p) / len(probabilities)
    near = np.flatnonzero(~far)
    ranked = near[np.argsort(-probabilities[near], kind="stable")]
    before = np.cumsum(probabilities[ranked]) - probabilities[ranked]  # mass of all that is more likely
    return np.concatenate([np.flatnonzero(far), ranked[1:][before[1:] >= top_p]])


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the request's seed and the token's position only (Philox is counter-based)."""
    return float(np.random.Generator(np.random.Philox(key=seed % (1 << 64), counter=position)).random())
