"""Writes data in memory to JSONL files, so that a training on rows is a training on files.

It can then be resumed and evaluated like any other, and its messages name the row. Rows may be any iterable of dicts, a
pandas, polars or pyarrow table, or a `datasets.Dataset`; none of these packages is imported here.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ptune.codecs.image import is_opened
from ptune.errors import DataError
from ptune.formats.whole_write import sha256_of, whole_file

Source: TypeAlias = Any
"""One or several paths, rows (an iterable of dicts), or a table: pandas, polars, pyarrow, datasets."""
SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
"""Keys of a dict of splits, such as a `datasets.DatasetDict`, -> ptune's names."""
_MISSING = ("NAType", "NaTType")  # pandas' own, beside NaN


def splits_of(data: Source) -> dict[str, Source]:
    """Split -> its source. Data that is not a dict is all for training. Raises: DataError for a dict with other keys."""
    if not isinstance(data, Mapping):
        return {"train": data}
    unknown = [name for name in data if name not in SPLITS]
    if unknown or not data:
        raise DataError(
            f"data is a dict with the keys {', '.join(map(repr, data)) or '(none)'}: pass rows, as in "
            '[{"text": "…", "label": "…"}], or splits, as in {"train": rows, "test": rows}'
        )
    return {SPLITS[name]: source for name, source in data.items()}


def files_of(source: Source, file: Path, named: str, *, keep: bool = False) -> tuple[Path, ...]:
    """The paths of a source; rows are written to `file`.

    named: name of the rows in errors. keep: `file` belongs to an existing run and must hold the same rows.
    Raises: DataError if there are no rows, they differ from those of the run, or a value cannot be written as JSON.
    """
    if source is None:
        return ()
    if isinstance(source, str | Path):
        return (Path(source),)
    rows = rows_of(source)
    first = next(rows, None)
    if isinstance(first, str | Path):
        return tuple(map(Path, (first, *rows)))
    if first is None:
        raise DataError(f"{named} holds no rows")
    lines = _lines(itertools.chain((first,), rows), named, file.parent)
    if keep and file.is_file():
        _check_same(lines, file, named)
        return (file,)
    with whole_file(file) as part, part.open("w", encoding="utf-8", newline="\n") as opened:
        opened.writelines(lines)
    return (file,)


def _check_same(lines: Iterable[str], file: Path, named: str) -> None:
    """Raises: DataError if the lines differ from those of the file."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    if digest.hexdigest() != sha256_of(file):
        raise DataError(
            f"{named} is not what the run was started on, which is in {file}: leave {named} out to continue with that, or "
            "train a new run"
        )


def rows_of(source: Source) -> Iterator[Any]:
    """The rows of a table or an iterable, as dicts, or its paths. Raises: DataError for any other type."""
    if hasattr(source, "features") and hasattr(source, "column_names"):  # datasets
        return _named(source)
    if hasattr(source, "to_dicts"):  # polars
        return iter(source.to_dicts())
    if hasattr(source, "to_pylist"):  # pyarrow
        return iter(source.to_pylist())
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas
        return iter(source.to_dict(orient="records"))
    if isinstance(source, bytes) or not isinstance(source, Iterable):
        raise DataError(
            f"data of type {type(source).__name__} cannot be read: pass paths, a list of dicts, a pandas, polars or "
            "pyarrow table, or a datasets.Dataset"
        )
    return iter(source)


def named_rows(error: DataError, files: Mapping[Path, str]) -> DataError:
    """The error with rows instead of lines of the files that ptune wrote. files: path -> name of the rows."""
    message = str(error)
    for path, name in files.items():
        place = re.escape(str(path))
        message = re.sub(rf"{place}(?::|, line )(\d+)", rf"row \1 of {name}", message)
        if f"{path}: " in message:  # then lists its lines
            message = re.sub(
                r"\bline(?=s cannot be used| \d)", "row", message.replace(f"{path}: ", f"{name}: ")
            )
    same = type(error)(message)
    same.file, same.line = error.file, error.line
    return same


def _named(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a `datasets.Dataset`, with names for the numbers of a ClassLabel; a negative number means no label."""
    names = {column: _label_names(feature) for column, feature in (dataset.features or {}).items()}
    for row in dataset:
        yield {column: _label(value, names.get(column)) for column, value in row.items()}


def _label_names(feature: Any) -> list[str] | None:
    while feature is not None and not hasattr(feature, "names"):
        feature = getattr(feature, "feature", None)  # a list of labels
    return None if feature is None else list(feature.names)


def _label(value: Any, names: list[str] | None) -> Any:
    if names is None or value is None or isinstance(value, str):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_label(one, names) for one in value]
    return names[value] if 0 <= value < len(names) else None


def _lines(rows: Iterable[Any], named: str, folder: Path, start: int = 1) -> Iterator[str]:
    """One JSON line per row. Raises: DataError."""
    for number, row in enumerate(rows, start):
        if not isinstance(row, Mapping):
            raise DataError(f"row {number} of {named} is {type(row).__name__}, not a dict: {str(row)[:80]!r}")
        plain = {}
        for column, value in row.items():
            try:
                plain[str(column)] = _plain(value, folder)
            except TypeError as error:
                raise DataError(f"row {number} of {named}: column {column!r} holds {error}") from None
        yield json.dumps(plain, ensure_ascii=False) + "\n"


def _plain(value: Any, folder: Path) -> Any:
    """A value in JSON types; a picture becomes the path of a PNG beside the rows. Raises: TypeError."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if type(value).__name__ in _MISSING:
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(one, folder) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, folder) for one in value]
    if is_opened(value):
        return _picture(value, folder)
    if hasattr(value, "tolist"):  # numpy, torch
        return _plain(value.tolist(), folder)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__}, which cannot be written as JSON")


def _picture(image: Any, folder: Path) -> str:
    """Writes a picture losslessly, named by its hash; returns its path relative to `folder`."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    name = f"images/{hashlib.sha256(encoded.getvalue()).hexdigest()[:32]}.png"
    with whole_file(folder / name) as file:
        file.write_bytes(encoded.getvalue())
    return name
