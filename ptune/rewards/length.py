"""How near an answer's length is to a wanted one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptune.rewards.reward import Function, text_of


def length(argument: str | None) -> Function:
    """1 at so many words, and less by the share that it is off, down to 0 at none and at twice as many: the closeness of L1
    (Aggarwal and Welleck 2025, https://arxiv.org/abs/2503.04697) as a share. argument: the number of words."""
    wanted = positive(argument, "words")

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        return [max(0.0, 1 - abs(words(completion) - wanted) / wanted) for completion in completions]

    return reward


def words(completion: Any) -> int:
    """What stands between spaces."""
    return len(text_of(completion).split())


def positive(argument: str | None, what: str, default: int | None = None) -> int:
    """A whole number above 0. Raises: ValueError."""
    if argument is None and default is not None:
        return default
    text = (argument or "").strip()
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ValueError(f"{text!r} is no number of {what}, 1 or more")
    return int(text)
