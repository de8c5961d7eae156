"""Rows of texts, labelled by their lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.codecs.labels import Labels
from ptune.config.columns import USUAL
from ptune.config.recipe import Recipe
from ptune.data.held_out import Held, Split
from ptune.data.read import read
from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import DataError
from ptune.formats.run import Run
from ptune.training.folder import check_same_data

from .spec import TextLength

NAME = "text-length"
LABELS = Labels(("short", "long"), "single")


@dataclass(frozen=True)
class Rows:
    """The rows of each split, and the files behind them as data.json has them."""

    splits: dict[str, list[LabelledRow]]
    files: list[dict[str, Any]]


def task_of(recipe: Recipe) -> TextLength:
    assert isinstance(recipe.task, TextLength)
    return recipe.task


def read_rows(recipe: Recipe) -> Rows:
    """Raises: DataError for a row without a text."""
    named = {"train": recipe.data.files, "validation": recipe.data.validation, "test": recipe.data.test}
    splits: dict[str, list[LabelledRow]] = {}
    files = []
    for split, paths in named.items():
        splits[split] = []
        for path in paths:
            rows, sha256 = rows_of(path, task_of(recipe))
            splits[split] += rows
            files.append({"split": split, "path": str(path), "sha256": sha256, "rows": len(rows)})
    return Rows(splits, files)


def rows_of(path: Path, task: TextLength) -> tuple[list[LabelledRow], str]:
    """A file's rows and its SHA-256."""
    table = read(path)
    table.problems.raise_if_any(table.row_count)
    rows = []
    for row in table.rows:
        text = row.value.get("text")
        if not isinstance(text, str) or not text:
            raise DataError("has no text", file=f"{path}:{row.number}")
        rows.append(LabelledRow(text, int(len(text) >= task.boundary), f"{path}, line {row.number}"))
    return rows, table.sha256


def held_out(run: Run, data: Sequence[Path] = (), columns: Mapping[str, str] = USUAL) -> Held:
    """What a run is judged by: its test rows, else those it was validated on, else `data`."""
    recipe = Recipe.load(run.recipe_path)
    task = task_of(recipe).with_columns(columns)
    read_again = read_rows(recipe)
    if data:
        given = [rows_of(path, task) for path in data]
        files = [{"path": str(path), "sha256": sha256} for path, (_, sha256) in zip(data, given, strict=True)]
        return Held(NAME, LABELS, "given", [row for rows, _ in given for row in rows], files)
    check_same_data(run, {"files": read_again.files})
    split: Split = "test" if recipe.data.test else "validation"
    files = [
        {"path": file["path"], "sha256": file["sha256"]}
        for file in read_again.files
        if file["split"] == split
    ]
    return Held(NAME, LABELS, split, read_again.splits[split], files, read_again.splits["train"])
