"""Texts in Windows-1252, a superset of Latin-1, as older programs of Western languages write them; ptune reads UTF-8."""

from __future__ import annotations

import re
from pathlib import Path

from ptune.formats.whole_write import disk_errors

_HIGH = re.compile(rb"[\x80-\xff]+")
_LONGEST_RUN = 3  # bytes: longer ones are words of an alphabet other than the Latin one
_INSIDE = "'’‘`´·-–—"  # what may stand between two letters
_AMID_LETTERS = re.compile(r"(?<=[^\W\d_])[^\x00-\x7f](?=[^\W\d_])")


def read_line(line: bytes) -> str | None:
    """A line's text, be it UTF-8 or Windows-1252; None if it is neither, or likely of another encoding."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        pass
    if any(len(run) > _LONGEST_RUN for run in _HIGH.findall(line)):
        return None
    try:
        text = line.decode("cp1252")
    except UnicodeDecodeError:
        return None
    odd = (found[0] for found in _AMID_LETTERS.finditer(text))
    return None if any(not one.isalpha() and one not in _INSIDE for one in odd) else text


def converted(path: Path, folder: Path) -> Path | None:
    """A copy in UTF-8, of the same name, in a folder; None if the file is UTF-8 already, or not surely Windows-1252.

    Raises: PtuneError if the disk is full; OSError if the file cannot be read.
    """
    target, differs = folder / path.name, False
    with disk_errors(folder), path.open("rb") as read, target.open("wb") as out:
        for line in read:
            text = read_line(line)
            if text is None or "\0" in text:
                return None
            told = text.encode()
            differs |= told != line
            out.write(told)
    return target if differs else None
