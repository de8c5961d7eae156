"""The texts of rows that an evaluation names by their places, out of the data, while it is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.recipe import Recipe
from ptune.data.problems import Problems
from ptune.data.read import reader_of, resolve
from ptune.data.shapes.labelled import TEXT, WORDS
from ptune.errors import PtuneError
from ptune.formats.run import Run
from ptune.studio.sheet import shortened

LONGEST = 120  # characters of a text
MOST_BYTES = 32 << 20  # larger files are not read for a table of ten rows


def texts_of(places: Sequence[str], run: Run, home: Path, known: Mapping[str, str]) -> dict[str, str]:
    """The beginning of each row's text, by its place, "data/file.csv, line 12".

    known: SHA-256 of the files that were evaluated, by name; one that has changed, is gone or is large gives no texts.
    """
    wanted: dict[str, dict[int, str]] = {}
    for place in places:
        file, _, row = place.rpartition(", ")
        number = row.rpartition(" ")[2]
        if file in known and number.isdecimal():
            wanted.setdefault(file, {})[int(number)] = place
    try:
        task = Recipe.load(run.recipe_path).task
        if isinstance(task, TextClassification):
            columns = task.columns.names("text", TEXT)
        elif isinstance(task, TokenClassification):
            columns = task.columns.names("tokens", WORDS)
        else:
            return {}
        return {
            place: text
            for file, rows in wanted.items()
            for place, text in _read(_at_hand(file, home), known[file], rows, columns).items()
        }
    except (PtuneError, OSError):  # damaged since: the places are still told
        return {}


def _at_hand(file: str, home: Path) -> Path:
    """A data file by the name that a command run in `home` gave it. Raises: DataError for a sample that is none."""
    return home / resolve(Path(file))


def _read(path: Path, sha256: str, rows: Mapping[int, str], columns: Sequence[str]) -> dict[str, str]:
    """Raises: DataError, OSError."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return {}
    reader = reader_of(path) if hashlib.sha256(path.read_bytes()).hexdigest() == sha256 else None
    if reader is None:
        return {}
    found: dict[str, str] = {}
    for row in reader.rows(Problems(str(path), reader.unit)):
        if row.number in rows:
            text = next((_joined(row.value[name]) for name in columns if row.value.get(name)), None)
            if text is not None:
                found[rows[row.number]] = shortened(text, LONGEST)
        if row.number >= max(rows):
            break
    return found


def _joined(value: Any) -> str | None:
    """A text, or the words of one; None of anything else."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return value if isinstance(value, str) else None
