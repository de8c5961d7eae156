"""CoNLL files: a word and its tag per line, an empty line after each sentence.

Source: Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ptune.data.problems import Problems
from ptune.data.readers.rows import BYTE_ORDER_MARK, Row, not_utf8

SUFFIXES = (".conll", ".bio", ".iob", ".iob2")
_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class Conll:
    """A CoNLL file. The first column of a line is the word, the last one its tag; blanks or tabs separate columns.

    A row is a sentence, `tokens` and `tags`; its number is its first line. -DOCSTART- lines and, at the start of a
    sentence, comments (`# id = 7`) are not words.
    """

    path: Path
    format = "CoNLL"
    unit = "line"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`. Skips sentences with an unreadable line."""
        first, words, tags, broken = 0, list[str](), list[str](), False
        for number, line in self._lines(problems):
            columns = [] if line is None else _columns(line)
            if line is not None and not columns:
                if words and not broken:
                    yield Row(first, {"tokens": words, "tags": tags})
                words, tags, broken = [], [], False
                continue
            if columns[:1] == [_DOCUMENT] or (not words and _is_comment(columns)):
                continue
            if len(columns) < 2 or broken:
                if line is not None and not broken:
                    problems.add(number, f"has no tag: {columns[0]!r} stands alone")
                broken = True
                continue
            first = first if words else number
            words.append(columns[0])
            tags.append(columns[-1])
        if words and not broken:
            yield Row(first, {"tokens": words, "tags": tags})

    def _lines(self, problems: Problems) -> Iterator[tuple[int, str | None]]:
        """Lines with their numbers; None for one that is not UTF-8, which is already recorded as a problem."""
        offset = 0
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.removeprefix(BYTE_ORDER_MARK) if number == 1 else raw
                try:
                    yield number, line.decode()
                except UnicodeDecodeError as error:
                    problems.add(number, not_utf8(error, offset + len(raw) - len(line)))
                    yield number, None
                offset += len(raw)


def _columns(line: str) -> list[str]:
    """Splits at blanks and tabs only, since a word may hold other white space."""
    return [column for column in re.split("[ \t]+", line.strip("\r\n")) if column]


def _is_comment(columns: list[str]) -> bool:
    """Whether a line begins with # and does not end with a tag."""
    return columns[:1] == ["#"] and not (columns[-1] == "O" or columns[-1][:2] in ("B-", "I-"))
