"""A copy of a data file with one row corrected or left out. The file itself stays.

The copy is JSONL in which row N, or the row of line N, stands on line N whatever the file's format was: what is told of a row's
place before an edit is right after it. Lines between rows are empty, which readers of JSONL skip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ptune.data.problems import Problems
from ptune.data.read import reader_of
from ptune.data.readers.columns import Columns
from ptune.data.readers.delimited import Delimited
from ptune.data.readers.json_array import JsonArray
from ptune.data.readers.jsonl import JsonLines
from ptune.data.readers.rows import Reader
from ptune.errors import DataError
from ptune.formats.whole_write import whole_file

TABLES = (JsonLines, JsonArray, Delimited, Columns)
"""Readers of the formats whose rows can be edited."""
EDITED = ".edited"
"""In the name of a copy."""


@dataclass(frozen=True)
class Edited:
    """What became of a file. left_out: rows that could not be read, and are not in the copy."""

    copy: Path
    left_out: int = 0


def row_at(path: Path, number: int) -> dict[str, Any]:
    """The row of a number, as problems and findings count: a line of text files, a row of others.

    Raises: DataError if there is none, or it cannot be read; and as `write_edited`.
    """
    reader = _reader(path)
    problems = Problems(str(path), reader.unit)
    for row in reader.rows(problems):
        if row.number == number:
            return row.value
        if row.number > number:
            break
    for reason, first, _ in problems.reasons():
        if first == number:
            raise DataError(f"cannot be read: {reason}", file=str(path), line=number)
    raise DataError(f"there is no row on {reader.unit} {number}", file=str(path))


def corrected(row: Mapping[str, Any], written: Mapping[str, str]) -> dict[str, Any]:
    """A row with columns as a user has written them: text where there is text or nothing, and JSON where there is more.

    An empty text in place of nothing changes nothing. Raises: DataError for what is no JSON.
    """
    changed = dict(row)
    for column, text in written.items():
        before = row.get(column)
        if before is None and not text:
            continue
        if before is None or isinstance(before, str):
            changed[column] = text
            continue
        try:
            changed[column] = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{column} holds {_kind(before)}, which is written as JSON, and this is none: {error}"
            ) from None
    return changed


def as_written(value: Any) -> str:
    """A column's value as `corrected` takes it."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def write_edited(path: Path, target: Path, number: int, written: Mapping[str, str] | None) -> Edited:
    """Writes a copy in which the columns of a row are as `written`, as in `corrected`; None: without the row.

    Lines of JSONL that are not edited are copied byte for byte, and so those that cannot be read.
    Raises: DataError if there is no such row, or the file's format has no rows that can be edited; PtuneError if the disk is
    full.
    """
    reader = _reader(path)
    row = None if written is None else corrected(row_at(path, number), written)
    if row is None and not isinstance(reader, JsonLines):
        row_at(path, number)
    line = b"" if row is None else _line(row, path, number)
    problems = Problems(str(path), reader.unit)
    with whole_file(target) as part, part.open("wb") as out:
        if isinstance(reader, JsonLines):
            _copy_lines(reader.path, out, number, line)
        else:
            _write_rows(reader, problems, out, number, line, path)
    return Edited(target, problems.count)


def _reader(path: Path) -> Reader:
    reader = reader_of(path)
    if not isinstance(reader, TABLES):
        what = "is no file" if reader is None else f"is {reader.format}"
        raise DataError(
            f"{what}: rows of JSONL, JSON, CSV, TSV, Parquet and Arrow can be edited here", file=str(path)
        )
    return reader


def _copy_lines(source: Path, out: IO[bytes], number: int, line: bytes) -> None:
    """Raises: DataError if the line is not there, or is empty."""
    found = False
    with source.open("rb") as file:
        for at, raw in enumerate(file, start=1):
            if at == number and raw.strip():
                found = True
                raw = line + b"\n"
            out.write(raw)
    if not found:
        raise DataError(f"there is no row on line {number}", file=str(source))


def _write_rows(
    reader: Reader, problems: Problems, out: IO[bytes], number: int, line: bytes, path: Path
) -> None:
    at = 1
    for row in reader.rows(problems):
        out.write(b"\n" * (row.number - at))
        out.write((line if row.number == number else _line(row.value, path, row.number)) + b"\n")
        at = row.number + 1


def _line(value: Mapping[str, Any], path: Path, number: int) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"row {number} holds what JSONL cannot: {error}", file=str(path)) from None


def _kind(value: Any) -> str:
    return {list: "a list", dict: "an object", bool: "true or false"}.get(type(value), "a number")


def copy_of(path: Path, folder: Path, used: Callable[[Path], bool] = lambda _: False) -> Path:
    """Where an edited copy of a file belongs in a folder: NAME.edited.jsonl, or the next that is free.

    A copy that was edited before is edited in place, unless it is used: a run that was trained on it knows its bytes.
    """
    stem, own, _ = path.name.partition(EDITED)
    if own and path.parent.resolve() == folder.resolve() and not used(path):
        return path
    stem = (stem if own else path.stem).replace(":", "-")
    names = (f"{stem}{EDITED}{'' if at == 1 else f'-{at}'}.jsonl" for at in range(1, 10_000))
    return next(folder / name for name in names if not (folder / name).exists())
