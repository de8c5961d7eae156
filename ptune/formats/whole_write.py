"""Atomic writes of files and folders: temporary name, fsync, rename, fsync of the parent folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ptune.errors import FormatError, PtuneError

# numpy's message on a full disk, which has no errno
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


@contextlib.contextmanager
def whole_file(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed to `path`, else removed.

    mode: who may read it; by default everybody, since a bundle is read by another user.

    Raises: PtuneError if the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        try:
            yield part
            os.chmod(part, mode)  # mkstemp gives 0600
            sync(part)
            part.replace(path)
            sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success its files are synced and it replaces `path`."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            yield part
            part.chmod(0o755)  # mkdtemp gives 0700
            for file in (entry for entry in part.rglob("*") if entry.is_file()):
                sync(file)
            old = part.with_suffix(".old")
            if path.exists():
                path.rename(old)  # first, so that one of the two is complete at any moment
            part.rename(path)
            sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def sync(path: Path) -> None:
    """Flushes a file or folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns OSErrors of a file system (disk full, no permission) into a PtuneError of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or SHORT_WRITE.fullmatch(str(error)):
            raise PtuneError(
                f"the disk is full: could not write {path}. What was there before is untouched."
            ) from None
        if error.errno is None:
            raise  # not from the operating system
        raise PtuneError(f"cannot write {path}: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, keys in the given order, with one trailing newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises: FormatError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path} is damaged: expected a JSON object, found {type(value).__name__}")
    return value


def write_json_lines(path: Path, values: Iterable[Any], default: Callable[[Any], Any] | None = None) -> None:
    """Writes JSON atomically, a value a line. default: turns what JSON does not have into what it has."""
    lines = (json.dumps(value, ensure_ascii=False, default=default) + "\n" for value in values)
    write_text(path, "".join(lines))


def read_json_lines(path: Path) -> list[Any]:
    """Reads what `write_json_lines` wrote, empty lines left out. Raises: OSError, ValueError.

    Only a line feed ends a line: texts may hold U+0085 or U+2028, at which `str.splitlines` would cut them in two.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
