"""CSV and TSV: a header and rows of fields, quoted as RFC 4180 says."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ptune.data.problems import Problems
from ptune.data.readers.rows import BYTE_ORDER_MARK, Row, not_utf8
from ptune.errors import DataError

SUFFIXES = (".csv", ".tsv", ".tab")
_NAMES = {",": "CSV", "\t": "TSV", ";": "CSV with ;", "|": "CSV with |"}
_TOLD = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=([,;\t|])"?\r?\n?')
"""A first line that tells the delimiter, as Excel reads and writes it."""
_LONGEST_FIELD = 1 << 26  # characters; else an unclosed quote would swallow the rest of the file


@dataclass(frozen=True)
class Delimited:
    """A CSV or TSV file. Every value is text; a row's number is its first line."""

    path: Path
    file: str  # the user's name for it
    delimiter: str
    unit = "line"

    @property
    def format(self) -> str:
        """The format with its delimiter."""
        return _NAMES[self.delimiter]

    @property
    def suffix(self) -> str:
        """What the name of such a file ends in."""
        return "tsv" if self.delimiter == "\t" else "csv"

    def lines(self, row: Row, *, header: bool) -> bytes:
        """A row as this format writes it, in the file's own columns; header: after the header."""
        text = io.StringIO(newline="")
        table = csv.writer(text, delimiter=self.delimiter, lineterminator=self._line_end)
        table.writerows([row.value.keys()] * header)
        table.writerow(row.value.values())
        written = text.getvalue().encode()
        if header and self._told:
            return self._first_line + written
        mark = BYTE_ORDER_MARK if header and self._first_line.startswith(BYTE_ORDER_MARK) else b""
        return mark + written

    @cached_property
    def _first_line(self) -> bytes:
        with self.path.open("rb") as file:
            return file.readline()

    @property
    def _told(self) -> bool:
        return _TOLD.fullmatch(self._first_line) is not None

    @property
    def _line_end(self) -> str:
        return "\r\n" if self._first_line.endswith(b"\r\n") else "\n"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`."""
        csv.field_size_limit(_LONGEST_FIELD)  # for the whole process; the default is too short for a document
        lines = _Lines(self.path, problems)
        table = csv.reader(lines, delimiter=self.delimiter, strict=True)
        header: list[str] | None = None
        while True:
            first, broken = table.line_num + 1, lines.broken
            try:
                fields = next(table)
            except StopIteration:
                break
            except csv.Error as error:
                if header is None and lines.broken > broken:
                    raise DataError("the header is not UTF-8", file=self.file, line=first) from None
                self._complain(problems, first, header, error, swallowed=lines.ended)
                continue
            if first == 1 and self._told:
                continue
            if header is None and fields:
                if lines.broken > broken:
                    raise DataError("the header is not UTF-8", file=self.file, line=first)
                header = self._checked(fields, first)
            elif header is not None and fields and lines.broken == broken:  # else already reported
                if len(fields) == len(header):
                    yield Row(first, dict(zip(header, fields, strict=True)))
                else:
                    problems.add(first, f"has {len(fields)} fields, the header has {len(header)}")

    def _complain(
        self, problems: Problems, first: int, header: list[str] | None, error: csv.Error, swallowed: bool
    ) -> None:
        """Records an unreadable row. Raises: DataError if it is the header."""
        reason = f"not {self.format}: {error}"
        if swallowed or "field limit" in str(error):
            reason = "a quote is opened and never closed"
        elif str(error).startswith("new-line character"):
            reason = "a carriage return without a line feed: end lines with CR LF or LF, and put fields that hold one in quotes"
        if header is None:
            raise DataError(f"the header cannot be read: {reason}", file=self.file, line=first)
        problems.add(first, reason)

    def _checked(self, header: list[str], line: int) -> list[str]:
        """Checks the header. The first column may lack a name, as pandas writes an index. Raises: DataError if the line cannot be one."""
        if len(header) > 1 and not header[0].strip():
            header = [_unnamed(header), *header[1:]]
        twice = [name for name, count in Counter(header).items() if count > 1 and name]
        if twice:
            raise DataError(f"the header names {', '.join(twice)} more than once", file=self.file, line=line)
        empty = [str(place) for place, name in enumerate(header, start=1) if not name.strip()]
        if empty:
            message = (
                f"the header has no name for column {', '.join(empty)}; the first line must name the columns"
            )
            raise DataError(message, file=self.file, line=line)
        return header


def _unnamed(header: list[str]) -> str:
    """A name for a column without one, as pandas calls it."""
    name = "Unnamed: 0"
    while name in header:
        name += ".1"
    return name


class _Lines:
    """A file's lines as text. Lines that are not UTF-8 become problems, counted in `broken`."""

    def __init__(self, path: Path, problems: Problems) -> None:
        self._path, self._problems = path, problems
        self.broken = 0
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        offset = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                start = len(BYTE_ORDER_MARK) if number == 1 and line.startswith(BYTE_ORDER_MARK) else 0
                try:
                    text = line[start:].decode()
                except UnicodeDecodeError as error:
                    self._problems.add(number, not_utf8(error, offset + start))
                    self.broken += 1
                    text = line[start:].decode(errors="replace")
                yield text
                offset += len(line)
        self.ended = True


def delimiter_of(suffix: str, first_line: bytes) -> str:
    """What Excel's first line tells; else a tab for .tsv and .tab, and for .csv the most frequent of comma, semicolon and tab in
    the header.
    """
    told = _TOLD.fullmatch(first_line)
    if told is not None:
        return told[1].decode()
    return max(",;\t", key=lambda mark: first_line.count(mark.encode())) if suffix == ".csv" else "\t"
