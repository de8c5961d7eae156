"""A penalty of answers that are too long: DAPO's soft overlong punishment (Yu et al. 2025, https://arxiv.org/abs/2503.14476, (13))."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptune.rewards.length import positive, words
from ptune.rewards.reward import Function

SOFT = 0.2  # of the length, in which the penalty grows; the paper: 4096 of 20480 tokens


def overlong(argument: str | None) -> Function:
    """0 up to four fifths of so many words, from there on less in a straight line, and -1 at all of them and beyond.
    argument: the number of words."""
    most = positive(argument, "words")

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        begins = (1 - SOFT) * most
        return [-min(1.0, max(0.0, words(one) - begins) / (most - begins)) for one in completions]

    return reward
