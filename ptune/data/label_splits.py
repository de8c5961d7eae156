"""A recipe's labelled rows in their splits: read, their labels looked up, some held out."""

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
from ptune.data.label_values import Known, Written, labels_of, problem_of
from ptune.data.labelled import LabelledFile, LabelledRow, TextTask, open_labelled
from ptune.data.source import hold_out
from ptune.errors import DataError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Placed:
    """A row that knows its file."""

    row: LabelledRow
    file: LabelledFile
    number: int


@dataclass
class LabelSplits:
    """All of a recipe's rows. What cannot be used is kept, so that a doctor can tell it: `check` raises it."""

    labels: Labels | None = None  # None where there is no row to take them from
    files: list[tuple[str, LabelledFile]] = field(default_factory=list)  # with their splits
    rows: dict[str, list[Placed]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    errors: list[DataError] = field(default_factory=list)  # of whole files, or of the data as a whole

    def check(self) -> None:
        """Raises: DataError where something cannot be used; what is wrong with rows says more than that there are too few."""
        for error in (error for error in self.errors if error.file is not None):
            raise error
        for _, file in self.files:
            file.check()
        for error in self.errors:
            raise error


def read_splits(data: Data, task: TextTask, seed: int) -> LabelSplits:
    """Reads a recipe's files. Without validation files, `validation_share` of the training rows is held out.

    Raises: DataError where the recipe names no files; all else is found by `LabelSplits.check`.
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
    written = [row.label for split, file in splits.files if split == "train" for row in file.rows]
    try:
        if written:
            splits.labels = labels_of(written, _problem(task, written), task.labels)
            _fill(splits, Known(splits.labels, named=bool(task.labels)), data, seed)
    except DataError as error:
        splits.errors.append(error)
    return splits


def _problem(task: TextTask, written: Sequence[Written]) -> Problem:
    if not isinstance(task, TextClassification):
        return "tags"
    if task.problem != "auto":
        return task.problem
    found = problem_of(written)
    return "single" if task.labels and found == "regression" and len(task.labels) > 1 else found


def _fill(splits: LabelSplits, known: Known, data: Data, seed: int) -> None:
    """Raises: DataError where there are too few rows to hold any out."""
    for split, file in splits.files:
        splits.rows[split] += [Placed(row, file, number) for row, number in file.looked_up(known)]
    train = splits.rows["train"]
    if not data.validation:
        held = _held_out([placed.row for placed in train], data.validation_share, seed)
        splits.rows["validation"] = [placed for placed, out in zip(train, held, strict=True) if out]
        train = [placed for placed, out in zip(train, held, strict=True) if not out]
    splits.rows["train"] = train[: data.limit]


def _held_out(rows: Sequence[LabelledRow], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """See `hold_out`. Rows with the same input stay on one side, whatever their labels are.

    Raises: DataError where that leaves nothing to train on.
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
