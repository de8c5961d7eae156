"""Opens data files of every known format, recognised by their first bytes or else by their names."""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ptune.data.problems import Problems
from ptune.data.readers.columns import ARROW_MAGIC, ARROW_STREAM_MAGIC, PARQUET_MAGIC, Columns
from ptune.data.readers.conll import SUFFIXES as TAGGED_SUFFIXES
from ptune.data.readers.conll import Conll
from ptune.data.readers.delimited import SUFFIXES as DELIMITED_SUFFIXES
from ptune.data.readers.delimited import Delimited, delimiter_of
from ptune.data.readers.hub import PREFIX as HUB
from ptune.data.readers.hub import open_hub
from ptune.data.readers.json_array import JsonArray
from ptune.data.readers.jsonl import JsonLines, is_object
from ptune.data.readers.not_text import why_not_text
from ptune.data.readers.plain_text import SUFFIXES as TEXT_SUFFIXES
from ptune.data.readers.plain_text import PlainText
from ptune.data.readers.po import SUFFIXES as PO_SUFFIXES
from ptune.data.readers.po import Po
from ptune.data.readers.rows import BYTE_ORDER_MARK, Reader, Row
from ptune.data.readers.tmx import SUFFIXES as TMX_SUFFIXES
from ptune.data.readers.tmx import Tmx
from ptune.errors import DataError
from ptune.progress import Progress

_SAMPLE = "sample:"
_FIRST_BYTES = 1 << 16
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class DataFile:
    """A file, or a data set of the hub, with a known format; rows are read on demand."""

    path: Path  # the user's name for it
    reader: Reader
    sha256: str  # of its bytes; for the hub, of its rows
    size_bytes: int
    modified_ns: int  # 0 if it cannot change
    copy: object = None  # keeps the copy of a pipe alive

    @property
    def text_only(self) -> bool:
        """Whether what it holds is text, numbers, too."""
        return isinstance(self.reader, Delimited)

    def problems(self) -> Problems:
        """An empty collection of problems for the file."""
        return Problems(str(self.path), self.reader.unit)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Yields the rows in order; unreadable ones go to `problems`.

        Raises: DataError if the file as a whole cannot be read, or changes meanwhile.
        """
        yield from self.reader.rows(problems)
        if self.modified_ns and resolve(self.path).stat().st_mtime_ns != self.modified_ns:
            raise DataError("the file changed while it was read; start again", file=str(self.path))

    def described(self, rows: int, unread: Sequence[str]) -> dict[str, Any]:
        """The file for data.json. unread: columns that were not used."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "format": self.reader.format,
            "rows": rows,
            "unread_columns": list(unread),
        }


@dataclass(frozen=True)
class Table:
    """All rows of a file that is known to be small, and its problems."""

    sha256: str
    rows: list[Row]
    row_count: int  # including unreadable rows
    problems: Problems


def read(path: Path) -> Table:
    """Reads a whole file into memory. Unreadable rows are its problems.

    Raises: DataError as `open_file`.
    """
    file = open_file(path)
    problems = file.problems()
    rows = list(file.rows(problems))
    return Table(file.sha256, rows, len(rows) + problems.count, problems)


def open_file(path: Path) -> DataFile:
    """Recognises a file's format and hashes it; reads no rows yet. `hub:…` and `sample:…` are paths, too.

    Raises: DataError if the file is missing, empty or of an unknown format.
    """
    if str(path).startswith(HUB):
        hub = open_hub(str(path))
        return DataFile(path, hub, hub.sha256(), hub.size_bytes, 0)
    file = resolve(path)
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            reader, sha256 = _reader(path, file), _sha256(path, file, status.st_size)
            return DataFile(path, reader, sha256, status.st_size, status.st_mtime_ns)
        copy = _copied(file)
        file = Path(copy.name)
        size = file.stat().st_size
        return DataFile(path, _reader(path, file), _sha256(path, file, size), size, 0, copy)
    except FileNotFoundError:
        raise DataError("there is no such file", file=str(path)) from None
    except IsADirectoryError:
        message = "is a folder: name the files in it, such as its *.parquet, *.arrow or *.jsonl"
        raise DataError(message, file=str(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=str(path)) from None


def reader_of(path: Path) -> Reader | None:
    """A reader of a file, which is not hashed; None for a pipe, which can be read only once, and for the hub.

    Raises: DataError as `open_file`.
    """
    file = None if str(path).startswith(HUB) else resolve(path)
    try:
        return None if file is None or not file.is_file() else _reader(path, file)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=str(path)) from None


def resolve(path: Path) -> Path:
    """Resolves `sample:NAME`, a sample that comes with ptune. Raises: DataError that lists the samples."""
    if not str(path).startswith(_SAMPLE):
        return path.expanduser()
    samples = {file.stem: file for file in sorted(Path(__file__).with_name("samples").glob("*.jsonl"))}
    name = str(path).removeprefix(_SAMPLE)
    if name not in samples:
        raise DataError(f"there is no sample {name!r}; there are {', '.join(samples)}")
    return samples[name]


def _reader(path: Path, file: Path) -> Reader:
    """A reader for a file's format. Raises: DataError, OSError."""
    named, suffix = str(path), file.suffix.lower()
    with file.open("rb") as opened:
        first = opened.read(_FIRST_BYTES)
        beginning = first.removeprefix(BYTE_ORDER_MARK).lstrip()
        while not beginning and (more := opened.read(_FIRST_BYTES)):
            beginning = more.lstrip()
    if not beginning:
        raise DataError("the file is empty", file=named)
    if other := why_not_text(first):
        raise DataError(other, file=named)
    if first.startswith(PARQUET_MAGIC):
        return Columns(file, named, "Parquet")
    if first.startswith(ARROW_MAGIC):
        return Columns(file, named, "Arrow")
    if first.startswith(ARROW_STREAM_MAGIC):
        return Columns(file, named, "Arrow stream")
    if suffix in DELIMITED_SUFFIXES:
        return Delimited(file, named, delimiter_of(suffix, first.partition(b"\n")[0]))
    if suffix in TAGGED_SUFFIXES:
        return Conll(file)
    if suffix in PO_SUFFIXES:
        return Po(file, named)
    if suffix in TMX_SUFFIXES:
        return Tmx(file, named)
    if suffix in TEXT_SUFFIXES and not is_object(beginning.partition(b"\n")[0]):
        return PlainText(file)
    if beginning[:1] == b"{" and beginning[1:].lstrip(b" \t\r").startswith(b"\n"):
        raise DataError(
            "the file is one JSON object over many lines, not rows: ptune reads a list of objects, or an object on each line;"
            " if the rows are a list in it, save that list alone",
            file=named,
        )
    return JsonArray(file, named) if beginning.startswith(b"[") else JsonLines(file)


def _copied(pipe: Path) -> IO[bytes]:
    """Copies a pipe, which can be read only once, to a file that is deleted with the returned object."""
    copy = tempfile.NamedTemporaryFile(prefix="ptune-")  # noqa: SIM115
    with pipe.open("rb") as opened:
        shutil.copyfileobj(opened, copy)
    copy.flush()
    return copy


def _sha256(path: Path, file: Path, size_bytes: int) -> str:
    digest = hashlib.sha256()
    with (
        file.open("rb") as opened,
        Progress(f"hashing {path}", size_bytes // _MEGABYTE, unit="MiB") as progress,
    ):
        while chunk := opened.read(_MEGABYTE):
            digest.update(chunk)
            progress.advance()
    return digest.hexdigest()
