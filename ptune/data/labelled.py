"""Rows with labels: texts, pairs of texts and tagged words, from files of every format that ptune reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ptune.codecs.labels import Labels
from ptune.codecs.messages import check_text
from ptune.config.classification import TextClassification, TokenClassification
from ptune.data.delimited import Delimited
from ptune.data.label_values import Known, Target, Written, listed, parted, written
from ptune.data.problems import Problems
from ptune.data.read import DataFile, open_file
from ptune.data.rows import Row
from ptune.errors import DataError, TemplateError

TextTask: TypeAlias = TextClassification | TokenClassification
Input: TypeAlias = str | tuple[str, str] | tuple[str, ...]
TEXT, PAIR, LABEL = ("text", "sentence"), "text_pair", ("label", "labels")
WORDS, TAGS = ("tokens",), ("tags", "ner_tags", "labels")
_SEPARATORS = {"|": "'|'", ";": "';'", ":": "':'", "\t": "a tab", ",": "','"}


@dataclass(frozen=True)
class LabelledRow:
    """One row of data that says what is right."""

    input: Any  # a text, two texts, a tuple of words, or a `ptune.data.images.ImageRef`
    label: Target  # index of a label; of several labels those that fit; of a regression a number; of words their tags
    place: str  # "file.csv, line 12"
    columns: Mapping[str, Any] = field(default_factory=dict)  # all others of its row


@dataclass(frozen=True)
class WrittenRow:
    """A row whose label has not been looked up yet."""

    input: Input
    label: Written
    number: int
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class LabelledFile:
    """A file that has the columns of a task; rows that cannot be used are its problems."""

    file: DataFile
    rows: list[WrittenRow]
    row_count: int  # with those that cannot be used
    problems: Problems
    unread: tuple[str, ...]  # columns that the task does not know

    @property
    def name(self) -> str:
        return str(self.file.path)

    def looked_up(self, known: Known) -> list[tuple[LabelledRow, int]]:
        """The rows with their labels, and their numbers; those with an unknown label go to the problems."""
        found = []
        for row in self.rows:
            try:
                target = known.target(row.label)
            except DataError as error:
                self.problems.add(row.number, str(error))
                continue
            place = f"{self.name}, {self.problems.unit} {row.number}"
            found.append((LabelledRow(row.input, target, place, row.columns), row.number))
        return found

    def check(self) -> None:
        """Raises: DataError that tells all the problems."""
        self.problems.raise_if_any(self.row_count)

    def described(self) -> dict[str, Any]:
        """The file for data.json."""
        return self.file.described(self.row_count, self.unread)


def read_labelled(paths: Sequence[Path], task: TextTask, labels: Labels) -> list[LabelledRow]:
    """All rows of files whose labels are known.

    Raises: DataError that names file and rows of what cannot be used, all problems of a file at once.
    """
    known, rows = Known(labels, named=bool(task.labels)), []
    for path in paths:
        file = open_labelled(path, task)
        rows += [row for row, _ in file.looked_up(known)]
        file.check()
    return rows


def open_labelled(path: Path, task: TextTask) -> LabelledFile:
    """Reads a file. Raises: DataError where it cannot be read as a whole, or lacks a column that the task needs."""
    file = open_file(path)
    problems = file.problems()
    rows = list(file.rows(problems))
    total = len(rows) + problems.count
    if not rows:
        problems.raise_if_any(total)
        raise DataError("the file holds no rows", file=str(path))
    columns = list(dict.fromkeys(name for row in rows for name in row.value))
    convert: _Text | _Words
    if isinstance(task, TokenClassification):
        convert = _Words(_column(file, columns, WORDS), _column(file, columns, TAGS))
    else:
        order = LABEL[::-1] if task.problem == "multi" else LABEL
        convert = _Text(
            _column(file, columns, TEXT), PAIR if PAIR in columns else None, _column(file, columns, order)
        )
    found = []
    for row in rows:
        try:
            found.append(convert.row(row))
        except DataError as error:
            problems.add(row.number, str(error))
    unread = tuple(name for name in columns if name not in convert.used)
    return LabelledFile(file, found, total, problems, unread)


@dataclass(frozen=True)
class _Text:
    """The columns of text classification."""

    text: str
    pair: str | None
    label: str

    @property
    def used(self) -> set[str | None]:
        return {self.text, self.pair, self.label}

    def row(self, row: Row) -> WrittenRow:
        """Raises: DataError for a row that cannot be used."""
        text = _said(row, self.text)
        label = written(row.value.get(self.label), self.label)
        given: Input = text if self.pair is None else (text, _said(row, self.pair))
        return WrittenRow(given, label, row.number, _others(row, self.used))


@dataclass(frozen=True)
class _Words:
    """The columns of token classification."""

    words: str
    tags: str

    @property
    def used(self) -> set[str | None]:
        return {self.words, self.tags}

    def row(self, row: Row) -> WrittenRow:
        """Raises: DataError for a row that cannot be used."""
        for column in (self.words, self.tags):
            if row.value.get(column) is None:
                raise DataError(f"has no {column}")
        words = listed(row.value[self.words], self.words)
        tags = written(listed(row.value[self.tags], self.tags), self.tags)
        if not words:
            raise DataError(f"{self.words} is empty")
        if len(words) != len(parted(tags)):
            raise DataError(
                f"has {len(words)} {self.words} and {len(parted(tags))} {self.tags}: each needs one"
            )
        for at, word in enumerate(words):
            _check(word, f"{self.words}[{at}]")
        return WrittenRow(tuple(words), tags, row.number, _others(row, self.used))


def _said(row: Row, column: str) -> str:
    """Raises: DataError where there is no text."""
    value = row.value.get(column)
    if value is None:
        raise DataError(f"has no {column}")
    return _check(value, column)


def _check(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{column} is {type(value).__name__}, not text")
    if not value.strip():
        raise DataError(f"{column} is empty")
    try:
        return check_text(value, column)
    except TemplateError as error:
        raise DataError(str(error)) from None


def _others(row: Row, used: set[str | None]) -> dict[str, Any]:
    return {name: value for name, value in row.value.items() if name not in used}


def _column(file: DataFile, columns: Sequence[str], names: Sequence[str]) -> str:
    """The first of `names` that the file has. Raises: DataError that lists the columns that are there."""
    found = next((name for name in names if name in columns), None)
    if found is not None:
        return found
    named = " or ".join(map(repr, names))
    there = ", ".join(map(repr, columns))
    message = f"has no column {named}; there {'is only' if len(columns) == 1 else 'are'} {there}"
    if isinstance(file.reader, Delimited) and len(columns) == 1:
        marks = [told for mark, told in _SEPARATORS.items() if mark in columns[0]]
        message += f": are its columns parted by {marks[0]}? ptune reads , ; and tab" if marks else ""
    elif isinstance(file.reader, Delimited):
        message += " (the first line must name the columns)"
    raise DataError(message, file=str(file.path))
