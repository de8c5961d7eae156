"""How many rows data files have, where counting them is quick."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ptune.data.problems import Problems
from ptune.data.read import reader_of
from ptune.errors import PtuneError

COUNTED_BYTES = 20_000_000
"""Larger files are not read for it."""


def rows_of(folder: Path, files: Sequence[str | Path]) -> int | None:
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
