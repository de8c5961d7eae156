"""One JSON array of objects, read element by element."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.data.problems import Problems
from ptune.data.readers.rows import BYTE_ORDER_MARK, Row, not_utf8, objects
from ptune.errors import DataError

_CHUNK_BYTES = 1 << 20
_SPACE = " \t\n\r"
# An error so close to the end of the window may vanish when more is read: \ud83d\ude00, -Infinity.
_MARGIN = 12


@dataclass(frozen=True)
class JsonArray:
    """A file that holds one JSON array, with any line breaks."""

    path: Path
    file: str  # the user's name for it
    format = "JSON array"
    unit = "row"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`."""
        return objects(enumerate(self._values(), start=1), problems)

    def _values(self) -> Iterator[Any]:
        with _Text(self.path) as text:
            try:
                yield from _elements(text)
            except UnicodeDecodeError as error:
                raise DataError(not_utf8(error, text.offset), file=self.file) from None
            except json.JSONDecodeError as error:
                message = f"not JSON: {error.msg} at {text.place(error.pos)}"
                raise DataError(message, file=self.file) from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"JSON that cannot be read: {error}", file=self.file) from None


class _Text:
    """A window on a UTF-8 file: `text` reaches from the first character still needed to the last one read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        if self._file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
            self._file.seek(0)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.ended = False
        self.offset = 0  # in bytes, of the decoder's next input
        self._line, self._column = 1, 1  # the window's first character

    def __enter__(self) -> _Text:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def more(self) -> None:
        """Reads at least as much again as the window holds, so that a long element is not scanned too often."""
        # Bytes that the decoder holds back belong to its next input.
        self.offset = self._file.tell() - len(self._decoder.getstate()[0])
        raw = self._file.read(max(_CHUNK_BYTES, len(self.text)))
        self.text += self._decoder.decode(raw, final=not raw)
        self.ended = not raw

    def forget(self, upto: int) -> None:
        """Drops the window's text before `upto`."""
        self._line, self._column = self._lines_and_column(upto)
        self.text = self.text[upto:]

    def place(self, at: int) -> str:
        """Converts a place in the window to line and column of the file."""
        line, column = self._lines_and_column(at)
        return f"column {column}" if line == 1 else f"line {line}, column {column}"

    def _lines_and_column(self, at: int) -> tuple[int, int]:
        breaks = self.text.count("\n", 0, at)
        if breaks == 0:
            return self._line, self._column + at
        return self._line + breaks, at - self.text.rindex("\n", 0, at)


def _elements(text: _Text) -> Iterator[Any]:
    """Yields the array's elements. Raises: JSONDecodeError with a place in the window, and the decoder's errors."""
    at, closed = _next(text, 0) + 1, False  # after the bracket
    if _character(text, at := _next(text, at)) == "]":
        at, closed = at + 1, True
    while not closed:
        value, at = _element(text, _next(text, at))
        yield value
        at = _next(text, at)
        character = _character(text, at)
        if character not in (",", "]"):
            raise json.JSONDecodeError("Expecting ',' delimiter", text.text, at)
        at, closed = at + 1, character == "]"
        if at >= _CHUNK_BYTES:
            text.forget(at)
            at = 0
    at = _next(text, at)
    if _character(text, at):
        raise json.JSONDecodeError("Extra data", text.text, at)


def _next(text: _Text, at: int) -> int:
    """The place of the next character that is not white space; the window's end at the end of the file."""
    while True:
        while at < len(text.text) and text.text[at] in _SPACE:
            at += 1
        if at < len(text.text) or text.ended:
            return at
        text.more()


def _character(text: _Text, at: int) -> str:
    return text.text[at : at + 1]


def _element(text: _Text, at: int) -> tuple[Any, int]:
    """Returns the value that begins at `at`, and the place after it."""
    while True:
        try:
            value, end = json.JSONDecoder().raw_decode(text.text, at)
        except json.JSONDecodeError as error:
            cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(text.text) - _MARGIN
            if text.ended or not cut_off:
                raise
        else:
            if end < len(text.text) or text.ended:  # a number at the window's end might continue
                return value, end
        text.more()
