"""The wrong rows of which a classifier was surest, with their texts out of the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.config.classification import TextClassification
from ptune.config.recipe import Recipe
from ptune.data.labelled import TEXT
from ptune.data.problems import Problems
from ptune.data.read import reader_of, resolve
from ptune.errors import PtuneError
from ptune.formats.run import Run
from ptune.studio.sheet import Cell, Content, note, sheet

WORST = 10  # rows
LONGEST = 120  # characters of a text
MOST_BYTES = 32 << 20  # larger files are not read for a table of ten rows


def worst(evaluation: Mapping[str, Any], run: Run, home: Path) -> str:
    """The wrong rows as HTML; empty for what is no choice of one label. home: the folder from which data files are named."""
    predictions, labels = run.folder / "predictions.jsonl", evaluation.get("labels") or []
    if evaluation.get("problem") != "single" or not predictions.is_file():
        return ""
    lines = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    wrong = [line for line in lines if line["gold"] != line["predicted"]]
    if not wrong:
        return note(f"No row is wrong: all {len(lines)} got their label, of {len(labels)}.", "good")
    wrong.sort(key=lambda line: -max(line["scores"], default=0.0))
    known = {str(file["path"]): str(file["sha256"]) for file in evaluation.get("files", [])}
    texts = texts_of([str(line["place"]) for line in wrong[:WORST]], run, home, known)
    rows = [_row(line, texts) for line in wrong[:WORST]]
    heads = ("row", "label", "the model says", "confidence")
    return sheet(f"Worst errors: {len(wrong)} of {len(lines)} rows are wrong", heads, rows, words=(0, 1, 2))


def _row(line: Mapping[str, Any], texts: Mapping[str, str]) -> tuple[Content, ...]:
    place = str(line["place"])
    told = Cell(texts[place], place) if place in texts else Cell(place)
    return told, str(line["gold"]), str(line["predicted"]), f"{max(line['scores'], default=0.0):.1%}"


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
        if not isinstance(task, TextClassification):
            return {}
        columns = task.columns.names("text", TEXT)
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
            text = next((row.value[name] for name in columns if isinstance(row.value.get(name), str)), None)
            if text is not None:
                found[rows[row.number]] = text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"
        if row.number >= max(rows):
            break
    return found
