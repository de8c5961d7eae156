"""How much of a growing text is held back, as it may be the beginning of a mark or of a stop text."""

from __future__ import annotations

from collections.abc import Sequence


def held_back(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that is the beginning of a mark, and not a whole one."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(mark.startswith(text[-n:]) for mark in marks)), 0)
