"""Whether a pattern is found in an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import regex as patterns

from ptune.rewards.reward import Function, RewardError, text_of

LIMIT_S = 1.0  # for one answer: a pattern can take for ever
LONGEST = 20_000  # characters of an answer that are searched


def regex(argument: str | None) -> Function:
    """1 where the pattern is found anywhere in the answer, in Python's syntax; `^…$` asks for the whole. (?i) and the like work."""
    if not argument:
        raise ValueError("no pattern stands behind the colon")
    try:
        pattern = patterns.compile(argument)
    except patterns.error as error:
        raise ValueError(f"{argument!r} is not a valid pattern: {error}") from None

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        return [_found(pattern, text_of(completion), at) for at, completion in enumerate(completions, 1)]

    return reward


def _found(pattern: Any, text: str, at: int) -> float:
    try:
        return float(pattern.search(text[:LONGEST], timeout=LIMIT_S) is not None)
    except TimeoutError:
        raise RewardError(
            f"{pattern.pattern!r} took more than {LIMIT_S:g} s on the {len(text)} characters of answer {at}: write it without"
            " repetition inside repetition"
        ) from None
