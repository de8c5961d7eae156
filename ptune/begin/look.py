"""A first look at a data file: its format, its columns, its first rows, and what it is likely for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptune.begin.columns_meant import columns_known, task_meant
from ptune.begin.first_rows import first_rows
from ptune.begin.starts import Word
from ptune.data.read import resolve
from ptune.data.readers.hub import PREFIX
from ptune.errors import DataError

LOOKED_AT = 200  # rows
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class Look:
    """What a first look shows. columns: None of what is no table. named: which column is which, where its name does not say
    so. task: None where it has to be asked for."""

    path: Path
    format: str
    columns: tuple[str, ...] | None
    rows: tuple[Mapping[str, Any], ...] = ()
    more: bool = False  # whether there are rows after those looked at
    task: Word | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()  # of the rows: a line of text files, a row of others
    unreadable: tuple[str, ...] = ()  # of the rows looked at: place and reason


def look_at(path: Path) -> Look:
    """Looks at a file, a folder of images or a data set of the hub, of which no row is asked for.

    Raises: DataError if it is missing, unreadable or holds no rows.
    """
    if str(path).startswith(PREFIX):
        return Look(path, "a data set of the hub", None)
    if resolve(path).is_dir():
        return _at_folder(path)
    first = first_rows(path, LOOKED_AT + 1)
    rows, columns = first.rows, first.columns
    task = task_meant(path, rows, columns)
    named = {} if task is None else columns_known(task, rows, columns)
    unreadable = tuple(_told(first.problems.unit, *kind) for kind in first.problems.kinds())
    more, numbers = len(rows) > LOOKED_AT, first.numbers[:LOOKED_AT]
    return Look(path, first.format, columns, rows[:LOOKED_AT], more, task, named, numbers, unreadable)


def _told(unit: str, why: str, rows: tuple[int, ...], count: int) -> str:
    """E.g. "line 4: not UTF-8 … (and 19 more lines like it)"."""
    more = f" (and {count - 1:,} more {unit}{'s' * (count > 2)} like it)" if count > 1 else ""
    return f"{unit} {rows[0]}: {why}{more}"


def _at_folder(path: Path) -> Look:
    folders = sorted(inner.name for inner in resolve(path).iterdir() if inner.is_dir())
    images = any(file.suffix.lower() in IMAGES for file in resolve(path).rglob("*"))
    if not images:
        raise DataError("is a folder without images: name the files in it", file=str(path))
    rows = tuple({"label": name} for name in folders)
    return Look(path, "images in folders", None, rows, task="images")
