"""Whether the last number of an answer is the row's, as GSM8K is judged (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from ptune.rewards.by_column import ByColumn, column_name
from ptune.rewards.exact import COLUMN
from ptune.rewards.reward import Function, RewardError, text_of

_SIGN = r"[-+\N{MINUS SIGN}]?"
_NUMBER = re.compile(
    rf"{_SIGN}\$?(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{{1,3}}(?!\d))?|{_SIGN}\.\d+"
)


def number(argument: str | None) -> Function:
    """1 where the last number of the answer equals the last one of a column, such as `#### 18` of GSM8K; 0 where there is none.
    1,800, $1800 and 1800.0 are one number. argument: the column's name."""
    column = column_name(argument, COLUMN)

    def score(completions: Sequence[Any], answers: Sequence[Any]) -> list[float | None]:
        found: list[float | None] = []
        for at, (completion, wanted) in enumerate(zip(completions, answers, strict=True), 1):
            if wanted is None:
                found.append(None)
            elif (expected := last_number(str(wanted))) is None:
                raise RewardError(f"the column {column!r} of answer {at} has no number: {wanted!r}")
            else:
                found.append(float(last_number(text_of(completion)) == expected))
        return found

    return ByColumn(column, score)


def last_number(text: str) -> Decimal | None:
    """The last number in a text; None where there is none."""
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007  the last one is wanted
        pass
    if last is None:
        return None
    digits = last[0].replace(",", "").replace("$", "").replace("\N{MINUS SIGN}", "-")
    if last.start() and text[last.start() - 1].isalnum():
        digits = digits.lstrip("+-")  # 3-2 is no negative number
    return Decimal(digits)
