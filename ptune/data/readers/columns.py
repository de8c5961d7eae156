"""Parquet and Arrow files, read a few hundred rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ptune.data.problems import Problems
from ptune.data.readers.rows import Row, objects
from ptune.errors import DataError

PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
ARROW_STREAM_MAGIC = b"\xff\xff\xff\xff"  # the start of each message of a stream
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Columns:
    """A Parquet file, an Arrow (Feather) file, or an Arrow stream, as `datasets` saves them."""

    path: Path
    file: str  # the user's name for it
    format: Literal["Parquet", "Arrow", "Arrow stream"]
    unit = "row"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`."""
        return objects(enumerate(map(without_nulls, self._values()), start=1), problems)

    def _values(self) -> Iterator[Any]:
        try:
            import pyarrow
        except ImportError:
            message = f"reading {self.format} needs pyarrow: pip install 'ptune[train]'"
            raise DataError(message, file=self.file) from None
        try:
            for batch in self._batches():
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    yield from batch.slice(start, _BATCH_ROWS).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            message = f"not {_with_article(self.format)} file that can be read: {error}"
            raise DataError(message, file=self.file) from None

    def _batches(self) -> Iterator[Any]:
        """Record batches."""
        import pyarrow
        from pyarrow import ipc, parquet

        if self.format == "Parquet":
            with parquet.ParquetFile(self.path) as file:
                yield from file.iter_batches(_BATCH_ROWS)
            return
        with pyarrow.memory_map(str(self.path)) as raw:
            if self.format == "Arrow stream":
                yield from ipc.open_stream(raw)
            else:
                file = ipc.open_file(raw)
                yield from (file.get_batch(index) for index in range(file.num_record_batches))


def without_nulls(value: Any) -> Any:
    """Drops nulls: in a column every object has the fields of all objects, null if it lacks them."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _with_article(name: str) -> str:
    return f"an {name}" if name.startswith("A") else f"a {name}"
