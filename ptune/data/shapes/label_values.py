"""Reads the label column of a file, and derives the labels."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from ptune.codecs.labels import Labels, Problem
from ptune.codecs.messages import check_text
from ptune.codecs.tag_marks import OUTSIDE
from ptune.errors import DataError, TemplateError

Written: TypeAlias = str | int | float | tuple[str | int | float, ...]
"""A label as a file has it: a name or a number, or a list of them."""
Target: TypeAlias = int | float | tuple[int, ...]
"""A label as a head's outputs have it: see `ptune.data.shapes.labelled.LabelledRow.label`."""
Kind: TypeAlias = Literal["flags", "numbers", "either"] | None
"""What the lists in a label column hold: see `kind_of_lists`."""
REGRESSION = "value"  # default name of a regression's number
_SHOWN = 12  # labels in a message
_APPLIES: dict[str | int | float, bool] = {0: False, 1: True, "false": False, "true": True}


def written(value: Any, column: str) -> Written:
    """Reads a cell of a label column. Raises: DataError if it cannot be a label."""
    if value is None:
        raise DataError(f"has no {column}")
    if isinstance(value, list | tuple):
        return tuple(_one(item, f"an item of {column}") for item in value)
    label = _one(value, column)
    if isinstance(label, str) and label.startswith("[") and label.endswith("]"):
        return tuple(_one(item, f"an item of {column}") for item in listed(label, column))
    return _number(label, column) if isinstance(value, float) else label


def listed(value: Any, column: str) -> list[Any]:
    """Reads a list, or its JSON text, as in CSV. Raises: DataError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise DataError(f"{column} is {_short(value)}, not a list in JSON") from None
    if not isinstance(value, list | tuple):
        raise DataError(f"{column} is {type(value).__name__} {_short(value)}, not a list")
    return list(value)


def kind_of_lists(values: Sequence[Written]) -> Kind:
    """What the lists of a file hold: a 1 or 0 for each label, as most libraries want several labels, or numbers of labels.

    The former are known by their equal lengths, and by numbers that a list of labels would hold twice or out of order.
    [0, 1] alone may be "either"; names, and cells without a list, say neither.
    """
    lists = [value for value in values if isinstance(value, tuple)]
    widths, items = set(map(len, lists)), {item for value in lists for item in value}
    if len(lists) == len(values) and len(widths) == 1 and items and _APPLIES.keys() >= items:
        rows = {tuple(_APPLIES[item] for item in value) for value in lists}
        worded = widths != {1} and any(isinstance(item, str) for item in items)
        if worded or any(list(row) != sorted(set(row)) for row in rows):
            return "flags"
        if rows == {(False, True)}:
            return "either"
    return "numbers" if any(isinstance(item, int | float) for item in items) else None


def applying(values: Sequence[Written]) -> list[Written]:
    """The numbers of the labels that apply, of lists that say 1 or 0 of each label."""
    return [tuple(at for at, item in enumerate(parted(value)) if _APPLIES[item]) for value in values]


def problem_of(values: Sequence[Written]) -> Problem:
    """Guesses the problem: lists are "multi", numbers with a decimal point "regression", all else "single"."""
    if any(isinstance(value, tuple) for value in values):
        return "multi"
    numbers = [_read_number(value) for value in values if value != ""]
    if numbers and all(number is not None for number in numbers):
        return "single" if all(isinstance(number, int) for number in numbers) else "regression"
    return "single"


def labels_of(values: Iterable[Written], problem: Problem, names: Sequence[str] = ()) -> Labels:
    """The labels that a recipe names, else the values': sorted, numbers by size, tag O first.

    Raises: DataError for tags that are numbers without names, parts of labels, a name given twice, or several names for a
    regression.
    """
    if len(set(names)) < len(names):
        raise DataError(f"task.labels names a label twice: {', '.join(names)}")
    if problem == "regression":
        if len(names) > 1:
            raise DataError(
                f"task.labels names {len(names)} labels ({_some(names)}), but the label is a number:"
                " give one name, or set task.problem"
            )
        return Labels(tuple(names) or (REGRESSION,), problem)
    if names:
        return Labels(tuple(names), problem)
    items = {
        item for value in values for item in (parted(value) if problem in ("multi", "tags") else (value,))
    }
    if problem == "tags" and any(isinstance(item, int) for item in items):
        raise DataError("the tags are numbers: name them in their order by task.labels, as in O,B-PER,I-PER")
    if problem == "multi" and (parts := [item for item in items if isinstance(item, float) and item % 1]):
        raise DataError(
            f"label holds {parts[0]}: a list names the labels that apply, or says 1 or 0 of each label"
        )
    ordered = sorted({str(item) for item in items if item != ""}, key=_order)
    if problem == "tags" and OUTSIDE in ordered:
        ordered = [OUTSIDE, *(name for name in ordered if name != OUTSIDE)]
    return Labels(tuple(ordered), problem)


@dataclass(frozen=True)
class Known:
    """Labels to look values up in."""

    labels: Labels
    named: bool  # by the recipe: numbers are then indices of names, unless names are numbers

    @cached_property
    def _of_numbers(self) -> bool:
        """Whether a label's name is a number: then no number is the index of a label."""
        return any(_read_number(name) is not None for name in self.labels.names)

    def target(self, value: Written) -> Target:
        """The value as a training target. Raises: DataError for an unknown label."""
        problem = self.labels.problem
        if problem == "regression":
            return self._number(value)
        if problem == "tags":
            return tuple(map(self._index, parted(value)))
        if problem == "multi":
            return tuple(sorted({self._index(item) for item in parted(value)}))
        if isinstance(value, tuple):
            raise DataError(f"label is a list, {_short(list(value))}: a list needs task.problem multi")
        return self._index(value)

    def _number(self, value: Written) -> float:
        number = None if isinstance(value, tuple) else _read_number(value)
        if number is None:
            raise DataError(f"label {_short(value)} is not a number, as task.problem regression needs")
        return float(number)

    def _index(self, value: str | int | float) -> int:
        names, what = self.labels.names, "tag" if self.labels.problem == "tags" else "label"
        if value == "":
            raise DataError(f"{what} is empty")
        if str(value) in names:
            return names.index(str(value))
        index = _read_number(value) if self.named and not self._of_numbers else None
        if isinstance(index, int) and 0 <= index < len(names):
            return index
        near = difflib.get_close_matches(str(value), names, n=1)
        meant = f"; is {near[0]!r} meant?" if near else ""
        raise DataError(f"{what} {str(value)!r} is unknown: known are {_some(names)}{meant}")


def parted(value: Written) -> tuple[str | int | float, ...]:
    """A list's items; a text may hold several, separated by |, or none."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split("|") if part.strip())
    return (value,)


def _one(value: Any, column: str) -> str | int | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        raise DataError(f"{column} is {type(value).__name__} {_short(value)}, not a name or a number")
    try:
        return check_text(value, column).strip()
    except TemplateError as error:
        raise DataError(str(error)) from None


def _number(value: str | int | float, column: str) -> str | int | float:
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{column} is {value}, which is not a number")
    return value


def _read_number(value: Written) -> int | float | None:
    """The number in a cell, or in its text; None if it is not a finite number."""
    if isinstance(value, tuple):
        return None
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float holds
        return None


def _order(name: str) -> tuple[bool, int, str]:
    number = _read_number(name)
    return (False, number, name) if isinstance(number, int) else (True, 0, name)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
