"""How often a row counts in the loss while it trains: its weight.

Only ratios matter, as the loss of a step is divided by the sum of the weights of its targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptune.errors import DataError

WEIGHT = "weight"
"""The column's usual name."""
_LEAST, _MOST = 1e-6, 1e6  # what float32 still sums beside a weight of 1


def weight_of(row: Mapping[str, Any], column: str | None, *, text: bool) -> float:
    """The weight in a row's column; 1 where there is none, or it is empty. text: whether the file holds nothing but text.

    Raises: DataError.
    """
    value = None if column is None else row.get(column)
    if value is None or (text and value == ""):
        return 1.0
    number = _number(value, text=text)
    if number == 0 or (number is not None and _LEAST <= number <= _MOST):
        return number
    raise DataError(
        f"{column} is {value!r}: how often a row counts is a number, 0 or from {_LEAST:.6f} to {_MOST:.0f}"
    )


def _number(value: Any, *, text: bool) -> float | None:
    """None if it is no number. Text is none but in CSV: in JSON "2" is more likely a mistake."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float) if text else (int, float)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


@dataclass
class Weights:
    """The weights of a file's rows. column: the file's column of them; None where it has none."""

    column: str | None = None
    zero: int = 0
    least: float = math.inf  # of those above 0
    most: float = 0.0

    def count(self, weight: float) -> None:
        """Counts a row."""
        if weight:
            self.least, self.most = min(self.least, weight), max(self.most, weight)
        else:
            self.zero += 1

    def check_left(self, rows: int, file: object) -> None:
        """Raises: DataError if each of so many rows has weight 0."""
        if self.zero == rows:
            raise DataError(f"each row has {self.column} 0, so that none is left", file=str(file))

    @property
    def left_out(self) -> dict[str, int]:
        """The rows of weight 0, as what a reader skips is counted."""
        return {"rows of weight 0": self.zero} if self.zero else {}

    def described(self) -> dict[str, Any]:
        """For data.json; empty where every row that is left counts once."""
        if not self.most or self.least == self.most == 1:
            return {}
        return {"weights": {"column": self.column, "least": self.least, "most": self.most}}


def check_named(named: Mapping[str, str], training: Mapping[str, Weights]) -> None:
    """Raises: DataError if a recipe names a column of weights that no training file has.

    named: column -> its name in the files; training: file -> the weights of its rows.
    """
    column = named.get(WEIGHT)
    if column is not None and training and all(weights.column is None for weights in training.values()):
        raise DataError(
            f"has no column {column!r}, which task.columns.weight names", file=next(iter(training))
        )


def told(file: Mapping[str, Any]) -> list[str]:
    """What to tell a user of a described file: how often its rows count, and how many are left out."""
    said = []
    if weights := file.get("weights"):
        said.append(
            f"{file['path']}: a row counts {_range(weights)} times in the training loss ({weights['column']})"
        )
    if left_out := file.get("left_out"):
        counts = (f"{count} {reason}" for reason, count in left_out.items())
        said.append(f"{file['path']}: left out: {', '.join(counts)}")
    return said


def _range(weights: Mapping[str, Any]) -> str:
    least, most = weights["least"], weights["most"]
    return f"{most:g}" if least == most else f"{least:g} to {most:g}"
