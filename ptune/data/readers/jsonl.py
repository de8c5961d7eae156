"""JSONL: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.data.problems import Problems
from ptune.data.readers.rows import BYTE_ORDER_MARK, Row, not_utf8, objects
from ptune.errors import DataError


@dataclass(frozen=True)
class JsonLines:
    """A JSONL file; empty lines are skipped."""

    path: Path
    format = "JSONL"
    unit = "line"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`."""
        return objects(self._values(problems), problems)

    def _values(self, problems: Problems) -> Iterator[tuple[int, Any]]:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                start = len(BYTE_ORDER_MARK) if number == 1 and line.startswith(BYTE_ORDER_MARK) else 0
                if line[start:].strip():
                    try:
                        yield number, parse(line[start:].removesuffix(b"\n"), offset + start)
                    except DataError as error:
                        problems.add(number, str(error))
                offset += len(line)


def parse(raw: bytes, offset: int) -> Any:
    """Parses a JSON value. offset: of the bytes in their file. Raises: DataError."""
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(error, offset)) from None
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at column {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:  # a number with too many digits, or too deep nesting
        raise DataError(f"JSON that cannot be read: {error}") from None


def is_object(line: bytes) -> bool:
    """Whether a line of bytes is a JSON object."""
    try:
        return isinstance(parse(line, 0), dict)
    except DataError:
        return False
