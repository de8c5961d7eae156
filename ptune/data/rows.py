"""What every reader of a file gives: rows that know their place, one at a time."""

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
    """One object of a file; `number` counts from 1, in lines of text files and in rows of others."""

    number: int
    value: dict[str, Any]


class Reader(Protocol):
    """A file of one format. It can be read more than once, and is never held as a whole."""

    @property
    def format(self) -> str:
        """The format's name, for the user."""

    @property
    def unit(self) -> str:
        """What rows are counted in: "line" or "row"."""

    def rows(self, problems: Problems) -> Iterator[Row]:
        """The rows in order; those that cannot be read go to `problems`.

        Raises: DataError where the file as a whole cannot be read.
        """


def objects(values: Iterable[tuple[int, Any]], problems: Problems) -> Iterator[Row]:
    """Numbered values as rows; those that are no objects are problems."""
    for number, value in values:
        if isinstance(value, dict):
            yield Row(number, value)
        else:
            problems.add(number, f"not a JSON object but {type(value).__name__}")


def not_utf8(error: UnicodeDecodeError, offset: int) -> str:
    """What to say of bytes that are not UTF-8. `offset` is where `error.object` begins in its file."""
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset + error.start}"


def library(module: str, extra: str, file: str) -> Any:
    """A package that only some formats need. Raises: DataError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        name = module.partition(".")[0]
        raise DataError(f"needs {name} to be read: pip install 'ptune[{extra}]'", file=file) from None
