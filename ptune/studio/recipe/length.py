"""How long each preset trains on the data that was chosen: about how many steps, from the rows of its files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ptune.begin.presets import WHAT, Preset
from ptune.config.recipe import Recipe
from ptune.data.problems import Problems
from ptune.data.read import reader_of
from ptune.errors import PtuneError
from ptune.training.order import Order

COUNTED_BYTES = 20_000_000
"""Larger files are not read for it."""


def label(preset: Preset, recipe: Recipe | None, rows: int | None) -> str:
    """A preset's name, what it does, and about how many steps that is. recipe: with the preset; None if it is wrong."""
    told = f"{preset}: {WHAT[preset]}"
    if recipe is None or rows is None:
        return told
    if recipe.data.limit is not None:
        rows = min(rows, recipe.data.limit)
    trained = rows if recipe.data.validation else rows - round(rows * recipe.data.validation_share)
    steps = Order(max(1, trained), recipe.train.batch_size, recipe.train.seed).steps(recipe.train)
    most = "up to" if recipe.train.patience is not None else "about"
    often = steps * recipe.train.batch_size / max(1, trained)
    passes = f"{often:,.0f}" if often >= 10 else f"{often:.2g}"
    return f"{told}. Here {most} {steps:,} steps, {passes} pass{'es' * (passes != '1')} over {trained:,} rows"


def rows_of(folder: Path, files: Sequence[str]) -> int | None:
    """The rows of data files, as a recipe in `folder` names them; None where they are large, or no files that can be read."""
    try:
        paths = [folder / file for file in files]
        stats = [path.stat() for path in paths]
        if not all(path.is_file() for path in paths) or sum(one.st_size for one in stats) > COUNTED_BYTES:
            return None
        counted = [_rows(path, one.st_mtime_ns) for path, one in zip(paths, stats, strict=True)]
        return sum(counted)
    except (PtuneError, OSError, ValueError):
        return None


@lru_cache(maxsize=64)
def _rows(path: Path, modified_ns: int) -> int:
    """The rows of a file that was written then. Raises: DataError, OSError."""
    reader = reader_of(path)
    return 0 if reader is None else sum(1 for _ in reader.rows(Problems(str(path), reader.unit)))
