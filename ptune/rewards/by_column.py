"""A reward function of answers and one column of their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Scored: TypeAlias = Callable[[Sequence[Any], Sequence[Any]], list[float | None]]
"""Answers and their rows' values of the column -> a number each; None: no opinion."""


@dataclass(frozen=True)
class ByColumn:
    """Called as any reward function. column: whose values `score` takes; known before there is an answer."""

    column: str
    score: Scored

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float | None]:
        return self.score(completions, columns[self.column])


def column_name(argument: str | None, default: str) -> str:
    """The column that stands behind a reward's colon. Raises: ValueError for an empty name."""
    if argument is None:
        return default
    if not argument.strip():
        raise ValueError("no column stands behind the colon")
    return argument.strip()
