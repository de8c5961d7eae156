"""Held-out texts and their reference translations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptune.config.chat import Chat
from ptune.data.read import open_file
from ptune.data.shapes.by_task import shapes_of
from ptune.data.shapes.conversations import Askable
from ptune.data.shapes.translations import in_columns
from ptune.data.source import open_source
from ptune.errors import DataError
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json

if TYPE_CHECKING:
    from ptune.evaluation.held_out import HeldOut


@dataclass(frozen=True)
class Pairs:
    """Rows that training never saw (unknown for `given` ones)."""

    split: Literal["test", "validation", "given"]
    rows: Sequence[Askable]
    places: Sequence[str]  # each row's origin
    files: list[dict[str, Any]]  # path and SHA-256
    left_out: int = 0  # rows that were too long

    @property
    def sources(self) -> list[str]:
        return [row.question for row in self.rows]

    @property
    def targets(self) -> list[str]:
        return [row.answer for row in self.rows]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sources and targets; equal for runs that can be compared."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps([row.question, row.answer]).encode() + b"\n")
        return digest.hexdigest()


def of_held(run: Run, held: HeldOut) -> Pairs:
    """A run's own held-out pairs. Raises: DataError if all are too long."""
    if not held.conversations:
        raise DataError(f"{run.folder} has no held-out row that is short enough: name some with --data FILE")
    named = [file for file in read_json(run.data_path)["files"] if file["split"] == held.split]
    files = named or read_json(run.data_path)["files"]
    return Pairs(
        held.split,
        held.conversations,
        [f"{held.split}, example {at}" for at in range(1, len(held.conversations) + 1)],
        [{"path": file["path"], "sha256": file["sha256"]} for file in files],
        len(held.examples) - len(held.conversations),
    )


def of_files(paths: Sequence[Path], task: Chat) -> Pairs:
    """The pairs of files. Raises: DataError if a row cannot be used."""
    rows, places, files = [], [], []
    for path in paths:
        source = open_source(in_columns(open_file(path), task), None, shapes_of(task))
        problems = source.file.problems()
        for sample in source.samples(problems):
            rows.append(sample.conversation)
            places.append(sample.place)
        problems.raise_if_any(source.row_count)
        files.append({"path": str(path), "sha256": source.file.sha256})
    return Pairs("given", [row for row in rows if isinstance(row, Askable)], places, files)
