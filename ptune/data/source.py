"""A data file: its conversations, and which of them are held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptune.data.conversations import Completion, Conversation, recognise
from ptune.data.problems import Problems
from ptune.data.read import read
from ptune.errors import DataError


@dataclass(frozen=True)
class Sample:
    """A conversation that knows where it comes from."""

    conversation: Conversation | Completion
    number: int  # of its line or row
    problems: Problems  # of its file

    @property
    def place(self) -> str:
        return f"{self.problems.file}, {self.problems.unit} {self.number}"


@dataclass(frozen=True)
class Source:
    """What one file holds. Rows that cannot be used are in `problems`."""

    path: Path
    sha256: str
    shape: str
    samples: list[Sample]
    problems: Problems
    row_count: int

    def check(self) -> None:
        """Raises: DataError where a row of the file cannot be used."""
        self.problems.raise_if_any(self.row_count)

    def described(self) -> dict[str, Any]:
        """The file for data.json."""
        return {"path": str(self.path), "sha256": self.sha256, "shape": self.shape, "rows": self.row_count}


def open_source(path: Path) -> Source:
    """Reads a file and recognises its shape by its columns.

    Raises: DataError where the file as a whole cannot be used.
    """
    table = read(path)
    if not table.rows:
        table.problems.raise_if_any(table.row_count)
    try:
        shape = recognise({column for row in table.rows for column in row.value})
    except DataError as error:
        raise DataError(str(error), file=str(path)) from None
    samples = []
    for row in table.rows:
        missing = [column for column in shape.columns if row.value.get(column) is None]
        try:
            if missing:
                raise DataError(f"has no {' and no '.join(missing)}")
            samples.append(Sample(shape.convert(row.value), row.number, table.problems))
        except DataError as error:
            table.problems.add(row.number, str(error))
    return Source(path, table.sha256, shape.name, samples, table.problems, table.row_count)


def hold_out(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on and those held out, each in the order given.

    Chosen by a hash of seed and content, so that neither the order of the samples nor the machine matters.

    Raises: DataError where there are too few.
    """
    if len(samples) < 2:
        raise DataError(f"{len(samples)} row is too few to hold any out: pass --data.validation PATH")
    count = min(max(1, round(share * len(samples))), len(samples) - 1)
    ranked = sorted(range(len(samples)), key=lambda index: (_hash(samples[index], seed), index))
    chosen = set(ranked[:count])
    kept = [sample for index, sample in enumerate(samples) if index not in chosen]
    return kept, [samples[index] for index in sorted(chosen)]


def _hash(sample: Sample, seed: int) -> bytes:
    content = json.dumps([seed, asdict(sample.conversation)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).digest()
