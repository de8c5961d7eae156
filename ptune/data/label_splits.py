"""Reads a recipe's labelled rows into splits: looks up labels, holds some rows out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ptune.codecs.labels import Labels, Problem
from ptune.config.classification import TextClassification
from ptune.config.recipe import Data
from ptune.data.shapes.label_values import Known, Written, labels_of, problem_of
from ptune.data.shapes.labelled import LabelledFile, LabelledRow, TextTask, one_kind, open_labelled
from ptune.data.shapes.row_weights import check_named
from ptune.data.source import hold_out
from ptune.errors import DataError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Placed:
    """A row with its file."""

    row: LabelledRow
    file: LabelledFile
    number: int


@dataclass
class LabelSplits:
    """All rows of a recipe. Unusable ones are kept for the doctor; `check` raises for them."""

    labels: Labels | None = None  # None if there is no row to take them from
    files: list[tuple[str, LabelledFile]] = field(default_factory=list)  # with their splits
    rows: dict[str, list[Placed]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    errors: list[DataError] = field(default_factory=list)  # for whole files, or for the data as a whole

    def check(self) -> None:
        """Raises: DataError if something cannot be used; faults of rows first, as they explain too few rows."""
        for error in (error for error in self.errors if error.file is not None):
            raise error
        for _, file in self.files:
            file.check()
        for error in self.errors:
            raise error


def read_splits(data: Data, task: TextTask, seed: int) -> LabelSplits:
    """Reads a recipe's files. Without validation files, `validation_share` of the training rows is held out.

    Raises: DataError if the recipe names no files; other errors are kept for `LabelSplits.check`.
    """
    if not data.files:
        raise DataError(
            "no training data: pass --data.files PATH (CSV, TSV, JSONL, JSON, Parquet, Arrow, CoNLL or"
            " hub:OWNER/NAME), for example --data.files sample:tweets3_sample.train"
        )
    splits = LabelSplits()
    for split, paths in (("train", data.files), ("validation", data.validation), ("test", data.test)):
        for path in paths:
            try:
                splits.files.append((split, open_labelled(path, task)))
            except DataError as error:
                splits.errors.append(error)
    try:
        settled = one_kind([file for _, file in splits.files], task, len(task.labels))
    except DataError as error:
        splits.errors.append(error)
        return splits
    splits.files = [(split, file) for (split, _), file in zip(splits.files, settled, strict=True)]
    training = [file for split, file in splits.files if split == "train"]
    written = [label for file in training for label in file.written]
    try:
        check_named(task.columns.named, {file.name: file.weights for file in training})
        if written:
            splits.labels = labels_of(written, problem_asked(task, written), task.labels)
            _fill(splits, Known(splits.labels, named=bool(task.labels)), data, seed)
    except DataError as error:
        splits.errors.append(error)
    return splits


def problem_asked(task: TextTask, written: Sequence[Written]) -> Problem:
    """The problem that a task states, or else the one that its labels look like."""
    if not isinstance(task, TextClassification):
        return "tags"
    if task.problem != "auto":
        return task.problem
    found = problem_of(written)
    return "single" if task.labels and found == "regression" and len(task.labels) > 1 else found


def _fill(splits: LabelSplits, known: Known, data: Data, seed: int) -> None:
    """Fills the splits. Raises: DataError if there are too few rows to hold any out."""
    for split, file in splits.files:
        splits.rows[split] += [Placed(row, file, number) for row, number in file.looked_up(known)]
    train = splits.rows["train"]
    if not data.validation:
        held = _held_out([placed.row for placed in train], data.validation_share, seed)
        splits.rows["validation"] = [placed for placed, out in zip(train, held, strict=True) if out]
        train = [placed for placed, out in zip(train, held, strict=True) if not out]
    splits.rows["train"] = train[: data.limit]


def _held_out(rows: Sequence[LabelledRow], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Holds rows out as `hold_out` does. Rows with the same input stay together, whatever their labels.

    Raises: DataError if nothing is left to train on.
    """
    ranks = np.array([_rank(row.input, seed) for row in rows], np.uint64)
    held = hold_out(ranks, share)
    held |= ranks <= ranks[held].max()
    if held.all():
        raise DataError(
            "all rows hold the same input: nothing would be left to train on; pass --data.validation PATH"
        )
    return held


def _rank(content: Any, seed: int) -> int:
    """The first 8 bytes of a SHA-256."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, content]).encode()).digest()[:8], "big")
