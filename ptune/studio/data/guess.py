"""Which columns are meant, where nobody has said so: kept from a file with the same header, or guessed by their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ptune.begin.columns_meant import columns_meant, longest, recurring
from ptune.begin.look import Look
from ptune.begin.recognise import fits
from ptune.begin.starts import STARTS, Word
from ptune.studio.data.choice import Choice
from ptune.studio.sheet import shortened

MOST_VALUES = 4
LONGEST_VALUE = 40  # characters
_EACH_NEEDED: tuple[Word, ...] = ("classify", "embed", "rerank", "translate")
"""Tasks whose data has one shape, so that every column of it has to be there."""


def chosen_for(files: Sequence[str], found: Look, before: Choice) -> Choice:
    """What files are for. before: the choice until now, which stays where the header is the same."""
    header = found.columns or ()
    if before.task is not None and header and header == before.header:
        return replace(before, files=tuple(files))
    return Choice(tuple(files), found.task, found.named, header, tuple(found.named))


def guessed(files: Sequence[str], found: Look, task: Word) -> Choice:
    """The columns of a task that was chosen; those are left out that several of the file's fit equally."""
    columns = found.columns or ()
    if task == found.task:
        named: Mapping[str, str] = found.named
    elif task == "classify" and not fits(task, columns) and len(recurring(found.rows, columns)) > 1:
        text = longest(found.rows, columns)
        named = {} if text is None else {"text": text}
    else:
        named = columns_meant(task, found.rows, columns)
    return Choice(tuple(files), task, named, columns, tuple(named))


def beside(found: Look, choice: Choice, column: str) -> str:
    """What stands beside the field of a task's column: whether it is guessed, and some values; or which columns fit."""
    named = choice.columns.get(column)
    if named is None:
        fit = _fit(found, choice)
        return f"choose one: {', '.join(fit)}" if column == "label" and fit else ""
    told = values(found, named)
    return f"guessed, check it: {told}" if column in choice.guessed else told


def unsure(found: Look, choice: Choice) -> str:
    """A sentence on the columns that could all be the label; empty where that is clear."""
    fit = _fit(found, choice)
    told = "; ".join(f"{column} ({values(found, column)})" for column in fit)
    return f"{len(fit)} columns could be the label, so choose one: {told}." if fit else ""


def unnamed(found: Look, choice: Choice) -> list[str]:
    """The columns that the task needs and nothing names."""
    if (
        choice.task not in _EACH_NEEDED
        or not found.columns
        or found.path.suffix in STARTS[choice.task].suffixes
    ):
        return []
    [shape] = STARTS[choice.task].rows
    wanted = [names[0] for names in shape if not {*names}.intersection(found.columns)]
    return [column for column in wanted if column not in choice.columns]


def values(found: Look, column: str) -> str:
    """Some values of a column, the commonest first."""
    filled = Counter(_short(value) for row in found.rows if (value := row.get(column)) not in (None, ""))
    most = MOST_VALUES if column in recurring(found.rows, [column]) else 1
    told = ", ".join(value for value, _ in filled.most_common(most))
    return f"{told}, …" if len(filled) > most else told


def _fit(found: Look, choice: Choice) -> list[str]:
    """The columns that could all be the label, where none is."""
    columns = found.columns or ()
    if choice.task != "classify" or "label" in choice.columns or fits("classify", columns):
        return []
    fit = [one for one in recurring(found.rows, columns) if one != choice.columns.get("text")]
    return fit if len(fit) > 1 else []


def _short(value: Any) -> str:
    return shortened(" ".join(str(value).split()), LONGEST_VALUE)
