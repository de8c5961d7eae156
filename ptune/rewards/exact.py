"""Whether an answer is the row's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptune.rewards.by_column import ByColumn, column_name
from ptune.rewards.reward import Function, text_of

COLUMN = "answer"


def exact(argument: str | None) -> Function:
    """1 where the answer equals a column, or one of its texts where it has several; upper and lower case, and how many spaces
    there are, do not count. argument: the column's name."""
    return ByColumn(column_name(argument, COLUMN), _score)


def _score(completions: Sequence[Any], answers: Sequence[Any]) -> list[float | None]:
    return [
        None if wanted is None else float(_same(text_of(completion), wanted))
        for completion, wanted in zip(completions, answers, strict=True)
    ]


def _same(text: str, wanted: Any) -> bool:
    options = wanted if isinstance(wanted, list | tuple) else [wanted]
    return plain(text) in {plain(str(option)) for option in options}


def plain(text: str) -> str:
    """Without what does not count."""
    return " ".join(text.split()).casefold()
