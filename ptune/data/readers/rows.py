"""The protocol of file readers: they yield numbered rows, one at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ptune.data.problems import Problems
from ptune.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One object of a file. number: from 1, lines in text files, rows in others."""

    number: int
    value: dict[str, Any]


class Reader(Protocol):
    """A file of one format. It can be read repeatedly, and is never held in memory as a whole."""

    @property
    def format(self) -> str:
        """The format's name, for the user."""

    @property
    def unit(self) -> str:
        """The unit of row numbers: "line" or "row"."""

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Yields the rows in order; unreadable ones go to `problems`.

        Raises: DataError if the file as a whole cannot be read.
        """


def objects(values: Iterable[tuple[int, Any]], problems: Problems) -> Iterator[Row]:
    """Yields numbered values as rows; values that are not objects become problems."""
    for number, value in values:
        if isinstance(value, dict):
            yield Row(number, value)
        else:
            problems.add(number, f"not a JSON object but {type(value).__name__}")


def not_utf8(error: UnicodeDecodeError, offset: int) -> str:
    """The message for bytes that are not UTF-8. offset: of `error.object` in its file."""
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset + error.start}"


def library(module: str, extra: str, file: str) -> Any:
    """Imports a package that only some formats need. Raises: DataError with the command to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        name = module.partition(".")[0]
        raise DataError(f"needs {name} to be read: pip install 'ptune[{extra}]'", file=file) from None
