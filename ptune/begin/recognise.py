"""Which task a data file is for, by its columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ptune.begin.starts import LIKELIEST, STARTS, Word
from ptune.errors import UsageError


def likely_task(path: Path, columns: Sequence[str]) -> Word | None:
    """The task that a file is most likely for, by its columns alone."""
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
