"""Choosing the next token from logits. A choice depends on its own sequence alone, never on the rest of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ptune.errors import PtuneError, RequestError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BLOCK = 256  # tokens that are summed before one of them is searched


def require(holds: bool, param: str, rule: str, value: object) -> None:
    """Raises: RequestError that names a parameter whose rule does not hold."""
    if not holds:
        raise RequestError(f"{param} {rule} (is {value!r})", param=param, code="invalid_value")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Field names and meanings are those of the OpenAI and vLLM APIs.

    Order: logit_bias, repetition/frequency/presence penalties, then temperature, top_k, top_p, min_p.
    `temperature` 0 is greedy; its ties go to the lowest token id.

    Raises: RequestError that names the field where a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(0 <= self.temperature < math.inf, "temperature", "must be 0 or more", self.temperature)
        require(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1", self.top_p)
        require(self.top_k >= 0, "top_k", "must be 0 (off) or more", self.top_k)
        require(0 <= self.min_p <= 1, "min_p", "must be from 0 to 1", self.min_p)
        require(
            0 < self.repetition_penalty < math.inf,
            "repetition_penalty",
            "must be above 0",
            self.repetition_penalty,
        )
        require(
            math.isfinite(self.frequency_penalty),
            "frequency_penalty",
            "must be finite",
            self.frequency_penalty,
        )
        require(
            math.isfinite(self.presence_penalty), "presence_penalty", "must be finite", self.presence_penalty
        )
        for token, bias in self.logit_bias.items():
            require(math.isfinite(bias), "logit_bias", f"must be finite for token {token}", bias)

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the token with the largest logit and bias is taken, whatever the earlier tokens are."""
        penalties = self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty
        return self.temperature == 0 and not penalties


def require_numbers(logits: npt.NDArray[np.float32]) -> None:
    """Raises: PtuneError where a logit is not a number: the largest is then not one either."""
    if logits.size and np.isnan(logits.max()):
        raise PtuneError("the model's output is not a number")


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
    if (
        allowed is None
        and sampling.is_plain_greedy
        and (best := _largest(logits, sampling.logit_bias)) is not None
    ):
        return best
    scores = penalised(logits.astype(np.float64), sampling, prompt, output)
    if allowed is not None:
        scores[~allowed] = -np.inf
        if scores.max() == -np.inf:
            raise PtuneError("the model gives no token a chance that may come here")
    if sampling.temperature == 0:
        return int(scores.argmax())  # the first of equals
    return drawn(distribution(scores, sampling), _uniform(seed, len(prompt) + len(output)))


def drawn(probabilities: Floats, share: float) -> int:
    """The token at which the sum of `probabilities` [vocab] from the first on passes a share, in [0, 1), of the whole.

    The block of tokens is found first, then the token in it: a cumulative sum over all tokens would take long.
    """
    sums = np.add.reduceat(probabilities, np.arange(0, len(probabilities), BLOCK))
    passed = np.cumsum(sums)
    target = share * passed[-1]
    block = _first_above(passed, target, sums)
    before = passed[block - 1] if block else 0.0
    inside = probabilities[block * BLOCK : (block + 1) * BLOCK]
    return block * BLOCK + _first_above(before + np.cumsum(inside), target, inside)


def _first_above(cumulative: Floats, target: float, parts: Floats) -> int:
    """The first index at which `cumulative` is above `target`; where rounding leaves none, the last that has a part."""
    return min(int(np.searchsorted(cumulative, target, side="right")), int(np.flatnonzero(parts)[-1]))


def _largest(logits: npt.NDArray[np.float32], bias: Mapping[int, float]) -> int | None:
    """The first of the tokens with the largest logit and bias; None where a full comparison is needed."""
    best = int(logits.argmax())
    if best in bias:
        return None
    rivals = ((float(logits[token]) + more, -token) for token, more in bias.items())
    return -max((float(logits[best]), -best), *rivals)[1] if bias else best


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
    """Probabilities [vocab] after temperature, top_k, top_p and min_p; tokens cut off have 0. Overwrites `scores`."""
    if not 0 < sampling.top_k < len(scores):
        return _spread(scores, sampling)
    kept = np.flatnonzero(scores >= np.partition(scores, -sampling.top_k)[-sampling.top_k])
    probabilities = _spread(scores[kept], sampling)
    scores[:] = 0
    scores[kept] = probabilities
    return scores


def _spread(scores: Floats, sampling: Sampling) -> Floats:
    """Probabilities [n] of the tokens that top_k kept, in place."""
    scores -= scores.max()
    with np.errstate(over="ignore"):  # a temperature near 0 sends all but the best to -inf, which is right
        scores /= sampling.temperature
    probabilities = np.exp(scores, out=scores)
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        _keep_nucleus(probabilities, sampling.top_p)
    if sampling.min_p > 0:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0
    if sampling.top_p < 1 or sampling.min_p > 0:
        probabilities /= probabilities.sum()
    return probabilities


def _keep_nucleus(probabilities: Floats, top_p: float) -> None:
    """Leaves the fewest tokens that together reach top_p (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751)."""
    # All tokens below (1 - top_p) / vocab together have less than 1 - top_p: they are outside without being sorted.
    near = np.flatnonzero(probabilities >= (1 - top_p) / len(probabilities))
    ranked = near[np.argsort(-probabilities[near], kind="stable")]
    before = np.cumsum(probabilities[ranked]) - probabilities[ranked]  # mass of all that is more likely
    kept = np.concatenate([ranked[:1], ranked[1:][before[1:] < top_p]])
    values = probabilities[kept]
    probabilities[:] = 0
    probabilities[kept] = values


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the request's seed and the token's position only (Philox is counter-based)."""
    return float(np.random.Generator(np.random.Philox(key=seed % (1 << 64), counter=position)).random())
