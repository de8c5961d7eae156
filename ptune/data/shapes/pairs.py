"""Rows of `anchor`, `positive` and `negative` texts, from files of every format that ptune reads, and their splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ptune.codecs.messages import check_text
from ptune.config.columns import PairColumns
from ptune.config.recipe import Data
from ptune.data.label_splits import SPLITS
from ptune.data.problems import Problems
from ptune.data.read import DataFile, open_file
from ptune.data.shapes.json_text import texts_or_text
from ptune.data.shapes.named_columns import found, names_in, optional
from ptune.data.source import hold_out
from ptune.errors import DataError, TemplateError

ANCHOR, POSITIVE, NEGATIVE = (
    ("anchor", "query", "question"),
    ("positive", "passage", "answer"),
    ("negative", "negatives"),
)


@dataclass(frozen=True)
class Pair:
    """An anchor, a positive that belongs to it, and negatives that do not."""

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    number: int  # its line or row
    file: PairFile

    @property
    def place(self) -> str:
        """The place, such as "file.csv, line 12"."""
        return f"{self.file.name}, {self.file.problems.unit} {self.number}"

    @property
    def passages(self) -> tuple[str, ...]:
        """All passages, the positive first."""
        return (self.positive, *self.negatives)


@dataclass(frozen=True, eq=False)
class PairFile:
    """A file with these columns; unusable rows are its problems."""

    file: DataFile
    problems: Problems
    unread: tuple[str, ...]  # other columns than these three
    rows: list[Pair] = field(default_factory=list)
    total: int | None = None  # rows of the file, if `rows` does not hold them

    @property
    def name(self) -> str:
        return str(self.file.path)

    @property
    def row_count(self) -> int:
        """The number of rows, including unusable ones."""
        return len(self.rows) + self.problems.count if self.total is None else self.total

    def described(self) -> dict[str, Any]:
        """The file for data.json."""
        return self.file.described(self.row_count, self.unread)


@dataclass
class PairSplits:
    """All rows of a recipe. Unusable ones are kept for the doctor; `check` raises for them."""

    files: list[tuple[str, PairFile]] = field(default_factory=list)  # with their splits
    rows: dict[str, list[Pair]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    errors: list[DataError] = field(default_factory=list)  # for whole files, or for the data as a whole

    def check(self) -> None:
        """Raises: DataError if something cannot be used; faults of rows first, as they explain too few rows."""
        for error in (error for error in self.errors if error.file is not None):
            raise error
        for _, file in self.files:
            file.problems.raise_if_any(file.row_count)
        for error in self.errors:
            raise error

    @property
    def passages(self) -> list[str]:
        """The distinct passages of all splits, in order: the collection to search."""
        rows = (row for split in SPLITS for row in self.rows[split])
        return list(dict.fromkeys(text for row in rows for text in row.passages))


def open_pairs(path: Path, named: PairColumns) -> PairFile:
    """Reads a file whose columns may be `named`. Raises: DataError if it cannot be read as a whole, or has no anchors or no positives."""
    file = open_file(path)
    problems = file.problems()
    rows = list(file.rows(problems))
    if not rows:
        problems.raise_if_any(problems.count)
        raise DataError("the file holds no rows", file=str(path))
    values = [row.value for row in rows]
    wanted = {"anchor": named.names("anchor", ANCHOR), "positive": named.names("positive", POSITIVE)}
    if named.negative is not None:
        wanted["negative"] = (named.negative,)
    chosen, columns = found(file, values, wanted), names_in(values)
    anchor, positive = chosen["anchor"], chosen["positive"]
    negative = chosen.get("negative") or optional(NEGATIVE, columns)
    unread = tuple(name for name in columns if name not in (anchor, positive, negative))
    pair_file = PairFile(file, problems, unread)
    for row in rows:
        try:
            texts = [checked_text(row.value.get(name), name) for name in (anchor, positive)]
            negatives = () if negative is None else _texts(row.value.get(negative), negative)
            pair_file.rows.append(Pair(texts[0], texts[1], negatives, row.number, pair_file))
        except DataError as error:
            problems.add(row.number, str(error))
    return pair_file


def read_pairs(paths: Sequence[Path], named: PairColumns) -> list[PairFile]:
    """Reads files. Raises: DataError that names the file and its unusable rows."""
    files = [open_pairs(path, named) for path in paths]
    for file in files:
        file.problems.raise_if_any(file.row_count)
    return files


def read_pair_splits(data: Data, seed: int, named: PairColumns) -> PairSplits:
    """Reads a recipe's files, whose columns may be `named`. Without validation files, `validation_share` of the training rows is held out.

    Raises: DataError if the recipe names no files; other errors are kept for `PairSplits.check`.
    """
    return read_splits(
        data, seed, lambda path: open_pairs(path, named), "of anchor and positive", "sample:verbs.train"
    )


def read_splits(
    data: Data, seed: int, opened: Callable[[Path], PairFile], rows: str, sample: str
) -> PairSplits:
    """As `read_pair_splits`, of files that are read by `opened`. rows, sample: for who names no files."""
    if not data.files:
        raise DataError(
            f"no training data: pass --data.files PATH (rows {rows}, as JSONL, CSV, Parquet, …), for"
            f" example --data.files {sample}"
        )
    splits = PairSplits()
    for split, paths in (("train", data.files), ("validation", data.validation), ("test", data.test)):
        for path in paths:
            try:
                file = opened(path)
            except DataError as error:
                splits.errors.append(error)
                continue
            splits.files.append((split, file))
            splits.rows[split] += file.rows
    if splits.rows["train"] and not data.validation:
        try:
            _hold_out(splits, data, seed)
        except DataError as error:
            splits.errors.append(error)
    splits.rows["train"] = splits.rows["train"][: data.limit]
    return splits


def _hold_out(splits: PairSplits, data: Data, seed: int) -> None:
    """Holds rows out; rows of one anchor stay together. Raises: DataError if nothing is left to train on."""
    train = splits.rows["train"]
    ranks = np.array([_rank(row.anchor, seed) for row in train], np.uint64)
    held = hold_out(ranks, data.validation_share)
    held |= ranks <= ranks[held].max()
    if held.all():
        raise DataError(
            "all rows have the same anchor: nothing would be left to train on; pass --data.validation PATH"
        )
    splits.rows["validation"] = [row for row, out in zip(train, held, strict=True) if out]
    splits.rows["train"] = [row for row, out in zip(train, held, strict=True) if not out]


def _rank(content: str, seed: int) -> int:
    """The first 8 bytes of a SHA-256."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, content]).encode()).digest()[:8], "big")


def _texts(value: Any, column: str) -> tuple[str, ...]:
    """Reads a cell of one text, several, or none. Raises: DataError."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = texts_or_text(value)
    if isinstance(value, str):
        return (checked_text(value, column),)
    if not isinstance(value, list):
        raise DataError(f"{column} is {type(value).__name__}, not a text or a list of texts")
    return tuple(checked_text(one, f"{column}[{at}]") for at, one in enumerate(value))


def checked_text(value: Any, column: str) -> str:
    """A column's text. Raises: DataError if it has none."""
    if value is None:
        raise DataError(f"has no {column}")
    if not isinstance(value, str):
        raise DataError(f"{column} is {type(value).__name__}, not text")
    if not value.strip():
        raise DataError(f"{column} is empty")
    try:
        return check_text(value, column)
    except TemplateError as error:
        raise DataError(str(error)) from None
