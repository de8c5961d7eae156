"""The first rows of a data file, as every look at one begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ptune.data.problems import Problems
from ptune.data.read import reader_of
from ptune.errors import DataError


@dataclass(frozen=True)
class FirstRows:
    """The rows that could be read, at least one, and what was wrong with others before them."""

    format: str
    rows: tuple[Mapping[str, Any], ...]
    problems: Problems
    numbers: tuple[int, ...] = ()  # of the rows: a line of text files, a row of others

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order in which they are met."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))


def first_rows(path: Path, most: int) -> FirstRows:
    """Raises: DataError if the file is missing, unreadable or holds no rows."""
    reader = reader_of(path)
    if reader is None:
        raise DataError("there is no such file", file=str(path))
    problems = Problems(str(path), reader.unit)
    found = tuple(islice(reader.rows(problems), most))
    rows = tuple(row.value for row in found)
    if not rows:
        raise DataError("has no row that can be read", file=str(path))
    return FirstRows(reader.format, rows, problems, tuple(row.number for row in found))
