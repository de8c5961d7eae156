"""Finds a task's columns among those of a file, and proposes which are meant where it lacks some."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ptune.data.read import DataFile
from ptune.data.readers.delimited import Delimited
from ptune.errors import DataError

_SEPARATORS = {"|": "'|'", ";": "';'", ":": "':'", "\t": "a tab", ",": "','"}
_FEW_VALUES = ("label", "tags")  # columns whose values recur
_IN_ORDER = ("user", "item", "time")  # columns of names and numbers, which lengths do not tell apart
_LOOKED_AT = 200  # rows


def found(
    file: DataFile, rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The name in the file of each wanted column. wanted: column -> the names to look for, in order.

    Raises: DataError that lists all that are missing and all that are there, and proposes the options that name them.
    """
    there = names_in(rows)
    chosen = {
        column: next((name for name in names if name in there), None) for column, names in wanted.items()
    }
    missing = [column for column, name in chosen.items() if name is None]
    if missing:
        _refuse(file, rows, there, {column: wanted[column] for column in missing}, list(chosen.values()))
    return {column: name for column, name in chosen.items() if name is not None}


def optional(names: Sequence[str], there: Collection[str]) -> str | None:
    """The first of `names` that is there."""
    return next((name for name in names if name in there), None)


def names_in(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of all columns, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def options_for(columns: Mapping[str, str]) -> str:
    """The options that name these columns: --task.columns.text message."""
    return " ".join(f"--task.columns.{column} {_quoted(name)}" for column, name in columns.items())


def proposed(
    missing: Sequence[str], rows: Sequence[Mapping[str, Any]], taken: Collection[str | None] = ()
) -> dict[str, str]:
    """Which columns of the rows `missing` ones may be: labels recur, texts are long.

    A column of the same name is taken as meant. Empty if too few columns are left.
    """
    rows = rows[:_LOOKED_AT]
    free = [name for name in names_in(rows) if name not in taken]
    if len(free) < len(missing):
        return {}
    chosen = {column: column for column in missing if column in free}
    free = [name for name in free if name not in chosen]
    for column in missing:
        if column in _FEW_VALUES and column not in chosen:
            recurring = {
                name: _distinct(rows, name) for name in reversed(free)
            }  # of equals the last: labels follow
            chosen[column] = min(recurring, key=lambda name: (recurring[name] < 2, recurring[name]))
            free.remove(chosen[column])
    others = [column for column in missing if column not in chosen]
    if not any(column in _IN_ORDER for column in others):
        longest = sorted(free, key=lambda name: -_length(rows, name))[: len(others)]
        free = [name for name in free if name in longest]
    chosen |= dict(zip(others, free, strict=False))
    return {column: chosen[column] for column in missing}


def _refuse(
    file: DataFile,
    rows: Sequence[Mapping[str, Any]],
    there: Sequence[str],
    missing: Mapping[str, Sequence[str]],
    taken: Collection[str | None],
) -> NoReturn:
    """Raises: DataError."""
    named = " and no column ".join(" or ".join(map(repr, names)) for names in missing.values())
    message = f"has no column {named}; there {'is only' if len(there) == 1 else 'are'} {', '.join(map(repr, there))}"
    if isinstance(file.reader, Delimited) and len(there) == 1:
        marks = [told for mark, told in _SEPARATORS.items() if mark in there[0]]
        message += f": are its columns parted by {marks[0]}? ptune reads , ; and tab" if marks else ""
    else:
        if isinstance(file.reader, Delimited):
            message += " (the first line must name the columns)"
        proposal = proposed(list(missing), rows, taken)
        message += f": say which is which, as in {options_for(proposal)}" if proposal else ""
    raise DataError(message, file=str(file.path))


def _distinct(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """Number of distinct values; of lists, of their items."""
    values = (row.get(name) for row in rows)
    return len({str(one) for value in values for one in (value if isinstance(value, list) else (value,))})


def _length(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """Characters of all values; none in numbers."""
    return sum(len(str(value)) for row in rows if isinstance(value := row.get(name), str | list))


def _quoted(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").replace(".", "").isalnum() else repr(name)
