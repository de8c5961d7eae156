"""A cache of what takes long to make: examples of large data sets, codecs, packed weights.

Each result has a folder, named by a hash of everything that it depends on: $PTUNE_CACHE/KIND/KEY, by default
under $XDG_CACHE_HOME/ptune or ~/.cache/ptune. The most recently used ones are kept; damaged ones are made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ptune.errors import FormatError
from ptune.formats.whole_write import read_json, sha256_of, write_json
from ptune.progress import Progress, say

WORTH_BYTES = 32 << 20  # smaller sets are encoded each time, in seconds
KEPT = 4  # results of a kind
_RECORD = "store.json"


def key_of(parts: Any) -> str:
    """A key for results that depend on `parts`, JSON-like values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def code_hash(*packages: str) -> str:
    """A hash of the code of packages, with all below them, so that a newer version does not use an older one's results."""
    digest, own = hashlib.sha256(), Path(__file__).parents[1]
    for package in packages:
        for file in sorted((own / package).rglob("*.py")):
            digest.update(f"{file.relative_to(own)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def place_for(key: str, kind: str = "tokens", kept: int | None = None) -> Iterator[Path | None]:
    """Yields the place of a result, locked against other processes; None if no cache is possible.

    kind: its parent folder; the `kept` (default: KEPT) most recently used results of each kind are kept.
    """
    try:
        root = cache_root() / kind
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / f"{key}.lock").open("w")
        _wait_for(lock)
    except OSError as error:
        _say_once(f"nothing is kept in {root}: {error.strerror}")
        yield None
        return
    except RuntimeError:  # a user without a home
        _say_once("nothing is kept: there is no home folder; PTUNE_CACHE names another")
        yield None
        return
    with lock:
        for part in root.glob(f".{key}.*"):  # left by a killed process
            shutil.rmtree(part, ignore_errors=True)
        yield root / key
        with contextlib.suppress(OSError):
            _forget_old(root, KEPT if kept is None else kept)


@functools.cache
def _say_once(text: str) -> None:
    say(text)


def _wait_for(lock: IO[str]) -> None:
    """Takes the lock, which is held until the file is closed or the process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another process makes the same: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def seal(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Writes the record with hashes by which `sealed` checks the folder; returns it."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    record = {**record, "files": {str(name): sha256_of(folder / name) for name in files}}
    write_json(folder / _RECORD, {**record, "seal": key_of(record)})
    return record


def sealed(folder: Path) -> dict[str, Any] | None:
    """The record of an intact folder, else None."""
    if not folder.is_dir():
        return None
    try:
        record = read_json(folder / _RECORD)
        if record.pop("seal") != key_of(record):
            raise FormatError(f"{_RECORD} is damaged")
        with Progress(f"checking {folder}", len(record["files"]), unit="files") as progress:
            for name, sha256 in record["files"].items():
                if sha256_of(folder / name) != sha256:
                    raise FormatError(f"{name} is damaged")
                progress.advance()
    except (FormatError, OSError, KeyError, AttributeError) as error:
        say(f"{folder} cannot be used and is made anew: {error}")
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)  # marks it as used now
    return record


def cache_root() -> Path:
    """The folder of all kinds."""
    if named := os.environ.get("PTUNE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptune"


def _forget_old(root: Path, kept: int) -> None:
    """Removes old results. Processes that use one continue: their mapped files stay."""
    folders = sorted(
        (path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: path.stat().st_mtime,
    )
    for folder in folders[:-kept]:
        shutil.rmtree(folder, ignore_errors=True)
