"""Plain text: one document, cut into passages, to limit memory and to hold a share out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ptune.data.problems import Problems
from ptune.data.readers.rows import BYTE_ORDER_MARK, Row, not_utf8

SUFFIXES = (".txt", ".md", ".text")
# A passage is about a hundredth of the file, within these limits.
_SHORTEST_BYTES, _LONGEST_BYTES = 1 << 12, 1 << 16


@dataclass(frozen=True)
class PlainText:
    """A text file. Rows have `text`, a passage that ends with a paragraph if possible, and `end_of_document`."""

    path: Path
    format = "plain text, one document in passages"
    unit = "line"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`. A row's number is the passage's first line."""
        before: Row | None = None
        for number, passage in self._passages(problems):
            if before is not None:
                yield before
            before = Row(number, {"text": passage, "end_of_document": False})
        if before is not None:
            yield Row(before.number, {**before.value, "end_of_document": True})

    def _passages(self, problems: Problems) -> Iterator[tuple[int, str]]:
        size = min(max(self.path.stat().st_size // 100, _SHORTEST_BYTES), _LONGEST_BYTES)
        first, passage, length = 1, list[str](), 0
        for number, line in self._lines(problems):
            passage.append(line)
            length += len(line)
            if length >= 2 * size or (
                length >= size and not line.strip()
            ):  # at an empty line, if there is one soon
                yield first, "".join(passage)
                first, passage, length = number + line.endswith("\n"), [], 0
        if "".join(passage).strip():
            yield first, "".join(passage)

    def _lines(self, problems: Problems) -> Iterator[tuple[int, str]]:
        """Numbered lines, which end with line feeds alone; very long ones come in pieces."""
        number, offset = 1, 0
        with self.path.open("rb") as file:
            while raw := file.readline(_SHORTEST_BYTES):
                if raw.endswith(b"\r") and len(raw) > 1:  # a line feed may follow
                    raw = raw[:-1]
                    file.seek(-1, os.SEEK_CUR)
                while not raw.endswith(b"\n") and _inside_character(raw) and (byte := file.read(1)):
                    raw += byte
                start = len(BYTE_ORDER_MARK) if offset == 0 and raw.startswith(BYTE_ORDER_MARK) else 0
                try:
                    yield number, raw[start:].decode().replace("\r\n", "\n")
                except UnicodeDecodeError as error:
                    problems.add(number, not_utf8(error, offset + start))
                offset += len(raw)
                number += raw.endswith(b"\n")


def _inside_character(raw: bytes) -> bool:
    """Whether the bytes end inside a character."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False
