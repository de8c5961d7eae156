"""Rows with labels: texts, pairs of texts, tagged words and judged steps, from files of every format that ptune reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from ptune.codecs.labels import Labels
from ptune.codecs.messages import check_text
from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.process_reward import RIGHT, WRONG, ProcessReward
from ptune.data.problems import Problems
from ptune.data.read import DataFile, open_file
from ptune.data.readers.rows import Row
from ptune.data.shapes.label_values import (
    Known,
    Target,
    Written,
    applying,
    kind_of_lists,
    listed,
    parted,
    written,
)
from ptune.data.shapes.named_columns import found, names_in, optional
from ptune.data.shapes.row_weights import WEIGHT, Weights, weight_of
from ptune.errors import DataError, TemplateError

TextTask: TypeAlias = TextClassification | TokenClassification | ProcessReward
Input: TypeAlias = str | tuple[str, str] | tuple[str, ...]
TEXT, PAIR, LABEL = ("text", "sentence"), ("text_pair",), ("label", "labels")
WORDS, TAGS = ("tokens",), ("tags", "ner_tags", "labels")
PROMPT, STEPS, VERDICTS = ("prompt",), ("completions",), ("labels",)
_RIGHT = {"true": RIGHT, "1": RIGHT, "1.0": RIGHT, "false": WRONG, "0": WRONG, "0.0": WRONG}


@dataclass(frozen=True)
class LabelledRow:
    """One row of data with its label."""

    input: Any  # a text, two texts, a tuple of words, a prompt and steps, or a `ptune.data.images.labelled.ImageRef`
    label: (
        Target  # index of a label; indices of several labels; a regression's number; tags of words or steps
    )
    place: str  # "file.csv, line 12"
    columns: Mapping[str, Any] = field(default_factory=dict)  # the row's other columns
    weight: float = 1.0  # how often it counts in training


@dataclass(frozen=True)
class WrittenRow:
    """A row with its label as written, not looked up yet."""

    input: Input
    label: Written
    number: int
    columns: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True)
class LabelledFile:
    """A file with the columns of a task; unusable rows are its problems."""

    file: DataFile
    rows: list[WrittenRow]
    row_count: int  # including unusable rows
    problems: Problems
    unread: tuple[str, ...]  # columns that the task does not use
    weights: Weights = field(default_factory=Weights)

    @property
    def name(self) -> str:
        return str(self.file.path)

    @property
    def written(self) -> list[Written]:
        """The labels as the file has them."""
        return [row.label for row in self.rows]

    def looked_up(self, known: Known) -> list[tuple[LabelledRow, int]]:
        """Returns the rows with label indices, and their numbers; unknown labels become problems."""
        labelled = []
        for row in self.rows:
            try:
                target = known.target(row.label)
            except DataError as error:
                self.problems.add(row.number, str(error))
                continue
            place = f"{self.name}, {self.problems.unit} {row.number}"
            labelled.append((LabelledRow(row.input, target, place, row.columns, row.weight), row.number))
        return labelled

    def with_flags_read(self) -> LabelledFile:
        """This file, whose lists say 1 or 0 of each label, with the numbers of those that apply."""
        labels = applying(self.written)
        return replace(
            self, rows=[replace(row, label=label) for row, label in zip(self.rows, labels, strict=True)]
        )

    def check(self) -> None:
        """Raises: DataError that lists all problems."""
        self.problems.raise_if_any(self.row_count)

    def described(self) -> dict[str, Any]:
        """The file for data.json."""
        left_out = {"left_out": self.weights.left_out} if self.weights.zero else {}
        return self.file.described(self.row_count, self.unread) | left_out | self.weights.described()


def read_labelled(paths: Sequence[Path], task: TextTask, labels: Labels) -> list[LabelledRow]:
    """Reads all rows of files, with known labels.

    Raises: DataError that names file and rows, all problems of a file at once.
    """
    lookup, rows = Known(labels, named=bool(task.labels)), []
    for file in one_kind([open_labelled(path, task) for path in paths], task, len(labels.names)):
        rows += [row for row, _ in file.looked_up(lookup)]
        file.check()
    return rows


def open_labelled(path: Path, task: TextTask) -> LabelledFile:
    """Reads a file. Raises: DataError if it cannot be read as a whole, or lacks a column of the task."""
    file = open_file(path)
    problems = file.problems()
    rows = list(file.rows(problems))
    total = len(rows) + problems.count
    if not rows:
        problems.raise_if_any(total)
        raise DataError("the file holds no rows", file=str(path))
    values = [row.value for row in rows]
    columns, convert = names_in(values), _conversion(file, values, task)
    written_rows, weights = [], Weights(convert.weight)
    for row in rows:
        try:
            read = convert.row(row)
        except DataError as error:
            problems.add(row.number, str(error))
            continue
        weights.count(read.weight)
        if read.weight:
            written_rows.append(read)
    weights.check_left(total, path)
    unread = tuple(name for name in columns if name not in {*convert.used, convert.weight})
    return LabelledFile(file, written_rows, total, problems, unread, weights)


def one_kind(files: Sequence[LabelledFile], task: TextTask, labels: int = 0) -> list[LabelledFile]:
    """Files of one data set, where lists that say 1 or 0 of each label have become the numbers of those that apply.

    Lists that are [0, 1] throughout a file are what the other files' are. labels: how many there are, 0 if that is not known.

    Raises: DataError where no other file tells.
    """
    if not isinstance(task, TextClassification):
        return list(files)
    kinds = [kind_of_lists(file.written) for file in files]
    told = {kind for kind in kinds if kind in ("flags", "numbers")}
    if labels not in (0, 2):
        told = {"numbers"}  # 1 or 0 of each label would be more or fewer than two
    settled = []
    for file, kind in zip(files, kinds, strict=True):
        if kind == "either":
            if len(told) != 1:
                raise DataError(
                    "every label is the list [0, 1], which may be the numbers of two labels, or say of two labels that the"
                    " second alone applies: write the names of labels that apply, or add rows with others",
                    file=file.name,
                )
            (kind,) = told
        settled.append(file.with_flags_read() if kind == "flags" else file)
    return settled


def _conversion(file: DataFile, rows: Sequence[Mapping[str, Any]], task: TextTask) -> _Text | _Words | _Steps:
    """The task's columns in a file. Raises: DataError if it lacks one."""
    names = task.columns.names
    if isinstance(task, TokenClassification):
        chosen = found(file, rows, {"tokens": names("tokens", WORDS), "tags": names("tags", TAGS)})
        return _Words(chosen["tokens"], chosen["tags"])
    if isinstance(task, ProcessReward):
        usual = {"prompt": PROMPT, "completions": STEPS, "labels": VERDICTS}
        chosen = found(file, rows, {column: names(column, of) for column, of in usual.items()})
        return _Steps(chosen["prompt"], chosen["completions"], chosen["labels"], task.step_separator)
    wanted = {
        "text": names("text", TEXT),
        "label": names("label", LABEL[::-1] if task.problem == "multi" else LABEL),
    }
    if task.columns.text_pair is not None:
        wanted["text_pair"] = (task.columns.text_pair,)
    chosen, there = found(file, rows, wanted), names_in(rows)
    pair = chosen.get("text_pair") or optional(PAIR, there)
    weight = optional(names("weight", (WEIGHT,)), there)
    return _Text(chosen["text"], pair, chosen["label"], weight, file.text_only)


@dataclass(frozen=True)
class _Text:
    """The columns of text classification."""

    text: str
    pair: str | None
    label: str
    weight: str | None
    text_only: bool  # whether the file's numbers are text

    @property
    def used(self) -> set[str | None]:
        return {self.text, self.pair, self.label}

    def row(self, row: Row) -> WrittenRow:
        """Converts a row. Raises: DataError if it cannot be used."""
        text = _said(row, self.text)
        label = written(row.value.get(self.label), self.label)
        given: Input = text if self.pair is None else (text, _said(row, self.pair))
        weight = weight_of(row.value, self.weight, text=self.text_only)
        return WrittenRow(given, label, row.number, _others(row, self.used), weight)


@dataclass(frozen=True)
class _Words:
    """The columns of token classification."""

    words: str
    tags: str
    weight: str | None = None

    @property
    def used(self) -> set[str | None]:
        return {self.words, self.tags}

    def row(self, row: Row) -> WrittenRow:
        """Converts a row. Raises: DataError if it cannot be used."""
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


@dataclass(frozen=True)
class _Steps:
    """The columns of process rewards, in the shape that TRL calls stepwise supervision."""

    prompt: str
    steps: str
    verdicts: str
    separator: str
    weight: str | None = None

    @property
    def used(self) -> set[str | None]:
        return {self.prompt, self.steps, self.verdicts}

    def row(self, row: Row) -> WrittenRow:
        """Converts a row. Raises: DataError if it cannot be used."""
        prompt = _said(row, self.prompt)
        for column in (self.steps, self.verdicts):
            if row.value.get(column) is None:
                raise DataError(f"has no {column}")
        steps = listed(row.value[self.steps], self.steps)
        verdicts = listed(row.value[self.verdicts], self.verdicts)
        if not steps:
            raise DataError(f"{self.steps} is empty")
        if len(steps) != len(verdicts):
            raise DataError(
                f"has {len(steps)} {self.steps} and {len(verdicts)} {self.verdicts}: each step needs one"
            )
        for at, step in enumerate(steps):
            if self.separator in _check(step, f"{self.steps}[{at}]"):
                raise DataError(
                    f"{self.steps}[{at}] holds the step separator {self.separator!r}, at which an answer is split into steps:"
                    " split the step, or choose another --task.step-separator"
                )
        labels = tuple(self._verdict(one, at) for at, one in enumerate(verdicts))
        return WrittenRow((prompt, *steps), labels, row.number, _others(row, self.used))

    def _verdict(self, value: Any, at: int) -> str:
        label = _RIGHT.get(str(value).strip().lower())
        if label is None:
            raise DataError(
                f"{self.verdicts}[{at}] is {value!r}: it must be true, for a right step, or false"
            )
        return label


def _said(row: Row, column: str) -> str:
    """A column's text. Raises: DataError if it has none."""
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
