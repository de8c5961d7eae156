"""A penalty of answers that repeat themselves (Yeo et al. 2025, https://arxiv.org/abs/2502.03373, appendix C.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptune.rewards.length import positive
from ptune.rewards.reward import Function, text_of

N = 3


def repetition(argument: str | None) -> Function:
    """Minus the share of the answer's n-grams of words that it had before; 0 for one that is shorter than that. Upper and lower
    case do not count. argument: n."""
    n = positive(argument, "words", N)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        return [_penalty(text_of(completion).casefold().split(), n) for completion in completions]

    return reward


def _penalty(words: Sequence[str], n: int) -> float:
    grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return len({*grams}) / len(grams) - 1 if grams else 0.0
