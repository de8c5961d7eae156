"""Which task a data file is for, by its columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ptune.begin.first_rows import first_rows
from ptune.begin.starts import LIKELIEST, STARTS, Word
from ptune.data.hub import PREFIX
from ptune.data.read import resolve
from ptune.errors import UsageError

LOOKED_AT = 20  # rows


def columns_of(path: Path) -> list[str] | None:
    """The columns of the first rows of a file; None for a folder, which holds images, and for the hub, which is not asked.

    Raises: DataError if the file is missing, unreadable or holds no rows.
    """
    if str(path).startswith(PREFIX) or resolve(path).is_dir():
        return None
    return list(first_rows(path, LOOKED_AT).columns)


def likely_task(path: Path, columns: Sequence[str] | None) -> Word | None:
    """The task that a file is most likely for."""
    if columns is None:
        return None if str(path).startswith(PREFIX) else "images"
    for word in LIKELIEST:
        if path.suffix.lower() in STARTS[word].suffixes or fits(word, columns):
            return word
    return None


def fits(word: Word, columns: Collection[str]) -> bool:
    """Whether a file with these columns can be read for a task."""
    return any(all(set(names).intersection(columns) for names in row) for row in STARTS[word].rows)


def check(word: Word, path: Path, columns: Sequence[str] | None, named: Collection[str]) -> None:
    """Raises: UsageError if a file's columns are not those of the task, and none is named by an option."""
    start = STARTS[word]
    if (
        columns is None
        or not start.rows
        or named
        or path.suffix.lower() in start.suffixes
        or fits(word, columns)
    ):
        return
    known = "; ".join(" and ".join(names[0] for names in row) for row in dict.fromkeys(start.rows))
    example = start.rows[0][0][0]
    raise UsageError(
        f"{path} has the columns {', '.join(columns)}, and {word} reads {known}: say which is which,"
        f" as in --columns {example}={columns[0]}"
    )
