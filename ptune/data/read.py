"""Reads JSONL, JSON and Parquet files into rows that know their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.data.problems import Problems
from ptune.errors import DataError

_SAMPLE = "sample:"
_PARQUET_MAGIC = b"PAR1"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One object of a file; `number` counts from 1, in lines for JSONL and in rows elsewhere."""

    number: int
    value: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A file's rows, and those that could not be read."""

    sha256: str
    rows: list[Row]
    row_count: int  # with those that could not be read
    problems: Problems


def read(path: Path) -> Table:
    """Reads a file of JSON objects: one a line, one array of them, or Parquet; told apart by the first bytes.

    Raises: DataError where the file is missing, empty or of another kind. Single rows that are wrong are its problems.
    """
    try:
        raw = resolve(path).read_bytes()
    except FileNotFoundError:
        raise DataError("there is no such file", file=str(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=str(path)) from None
    beginning = raw.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if not beginning:
        raise DataError("the file is empty", file=str(path))
    as_lines = not beginning.startswith((b"[", _PARQUET_MAGIC))
    problems = Problems(str(path), unit="line" if as_lines else "row")
    if as_lines:
        values = _lines(raw, problems)
    else:
        values = enumerate(
            _parquet(path, raw) if raw.startswith(_PARQUET_MAGIC) else _array(path, raw), start=1
        )
    rows = list(_objects(values, problems))
    return Table(hashlib.sha256(raw).hexdigest(), rows, len(rows) + problems.count, problems)


def resolve(path: Path) -> Path:
    """The file itself: `sample:NAME` is a sample that comes with ptune. Raises: DataError that lists the samples."""
    if not str(path).startswith(_SAMPLE):
        return path.expanduser()
    samples = {file.stem: file for file in sorted(Path(__file__).with_name("samples").glob("*.jsonl"))}
    name = str(path).removeprefix(_SAMPLE)
    if name not in samples:
        raise DataError(f"there is no sample {name!r}; there are {', '.join(samples)}")
    return samples[name]


def _lines(raw: bytes, problems: Problems) -> Iterator[tuple[int, Any]]:
    """The values of JSONL with their line numbers; empty lines are skipped."""
    offset = 0
    for number, line in enumerate(raw.split(b"\n"), start=1):
        start = len(_BYTE_ORDER_MARK) if number == 1 and line.startswith(_BYTE_ORDER_MARK) else 0
        if line[start:].strip():
            try:
                yield number, _parse(line[start:], offset + start)
            except DataError as error:
                problems.add(number, str(error))
        offset += len(line) + 1


def _parse(raw: bytes, offset: int) -> Any:
    """A JSON value. `offset` is where the bytes are in their file. Raises: DataError."""
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
        ) from None
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"not JSON: {error.msg} at {place}") from None
    except (ValueError, RecursionError) as error:  # a number of too many digits, brackets nested too deeply
        raise DataError(f"JSON that cannot be read: {error}") from None


def _array(path: Path, raw: bytes) -> list[Any]:
    start = len(_BYTE_ORDER_MARK) if raw.startswith(_BYTE_ORDER_MARK) else 0
    try:
        values: list[Any] = _parse(raw[start:], start)
    except DataError as error:
        raise DataError(str(error), file=str(path)) from None
    return values


def _parquet(path: Path, raw: bytes) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError("reading Parquet needs pyarrow: pip install 'ptune[train]'", file=str(path)) from None
    try:
        table = parquet.read_table(pyarrow.BufferReader(raw))
    except pyarrow.ArrowException as error:
        raise DataError(f"not a Parquet file that can be read: {error}", file=str(path)) from None
    return (_without_nulls(value) for value in table.to_pylist())


def _without_nulls(value: Any) -> Any:
    """In Parquet every object has all the fields that any of them has; those it lacks are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _objects(values: Iterator[tuple[int, Any]], problems: Problems) -> Iterator[Row]:
    for number, value in values:
        if isinstance(value, dict):
            yield Row(number, value)
        else:
            problems.add(number, f"not a JSON object but {type(value).__name__}")
