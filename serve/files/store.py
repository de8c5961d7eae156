"""Files of API keys in one folder, `files/`: a content, FILE.jsonl, and its description, FILE.json, which is written last.

A content without a description is the output of a batch that is not complete, or is left over from a server that was
killed while a client uploaded, and is removed at the next start.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from ptune.errors import PtuneError, RequestError, UsageError
from ptune.formats.whole_write import whole_file, write_text

from .disk_space import DiskSpace
from .lines import InputLines
from .stored_file import KEPT_S, Purpose, StoredFile

MAX_FILES = 10_000
"""Of one key."""

Kept = TypeVar("Kept", bound=BaseModel)
_log = logging.getLogger("ptune.serve")


@dataclass(frozen=True)
class FilesOptions:
    """Where files are kept, and how much of them."""

    folder: Path
    max_file_bytes: int = 200 * 10**6  # of one upload; OpenAI's limit for a batch
    max_bytes: int = 10 * 10**9  # of all files

    @contextmanager
    def opened(self) -> Iterator[FileStore]:
        """The files, for one server at a time. Raises: UsageError if the folder cannot be used."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("wb")
        except OSError as error:
            raise UsageError(f"--files {self.folder}: cannot write there: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    f"--files {self.folder}: another server uses this folder; give each one of its own"
                ) from None
            yield FileStore(self)


class FileStore:
    """The files of all keys. Methods may be called from any thread; they raise RequestError."""

    def __init__(self, options: FilesOptions, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = options.folder
        self.max_file_bytes = options.max_file_bytes
        self.clock = clock
        self.space = DiskSpace(options.max_bytes)
        self._files: dict[str, StoredFile] = {}
        self._in_use: Counter[str] = Counter()
        self._changing = threading.RLock()
        private_folder(self._path(""))
        for path in self._path("").glob("*.json"):
            if (file := read_kept(path, StoredFile, "file")) is not None and self.content(file.id).is_file():
                self._files[file.id] = file
                self.space.count(file.key, file.id, file.bytes)

    def content(self, file_id: str) -> Path:
        """Where the content of a file lies, or will lie."""
        return self._path(f"{file_id}.jsonl")

    def add(self, key: str, filename: str, content: BinaryIO, kept_s: float = KEPT_S) -> StoredFile:
        """Stores what a key uploads for a batch. Raises: RequestError (429, 507)."""
        self._expire()
        with self._changing:
            kept = sum(file.key == key for file in self._files.values())
        if kept >= MAX_FILES:
            message = f"this key has {MAX_FILES} files; delete those that you no longer need"
            raise RequestError(message, code="too_many_files", status=429)
        file_id, path = new_id(), self.content
        size_bytes = content.seek(0, 2)
        self.space.take(key, file_id, size_bytes)
        try:
            content.seek(0)
            with storing(), whole_file(path(file_id)) as part, part.open("wb") as written:
                shutil.copyfileobj(content, written, 2**20)
            return self.describe(key, file_id, filename, "batch", kept_s)
        except BaseException:
            path(file_id).unlink(missing_ok=True)
            self.space.free(file_id)
            raise

    def describe(self, key: str, file_id: str, filename: str, purpose: Purpose, kept_s: float) -> StoredFile:
        """Makes a content that is complete known to its key. Raises: RequestError(507)."""
        now_s, size_bytes = self.clock(), self.content(file_id).stat().st_size
        file = StoredFile(
            id=file_id,
            key=key,
            filename=filename,
            purpose=purpose,
            bytes=size_bytes,
            created_s=now_s,
            expires_s=now_s + kept_s,
        )
        with storing():
            write_text(self._path(f"{file_id}.json"), file.model_dump_json() + "\n")
        self.space.count(key, file_id, size_bytes)
        with self._changing:
            self._files[file_id] = file
        return file

    def of_key(self, key: str) -> list[StoredFile]:
        """The files of a key, oldest first."""
        self._expire()
        with self._changing:
            found = [file for file in self._files.values() if file.key == key]
        return sorted(found, key=lambda file: (file.created_s, file.id))

    def find(self, key: str, file_id: str) -> StoredFile:
        """A file of this key. Raises: RequestError(404)."""
        self._expire()
        with self._changing:
            file = self._files.get(file_id)
        if file is None or file.key != key:
            message = f"no file {file_id[:80]!r} is kept here for this key"
            raise RequestError(message, param="file_id", code="not_found", status=404)
        return file

    def delete(self, key: str, file_id: str) -> None:
        """Deletes a file. Raises: RequestError: 404; 400 while a batch reads it."""
        with self._changing:
            file = self.find(key, file_id)
            if self._in_use[file_id]:
                message = (
                    f"file {file_id!r} is the input of a batch that has not ended; cancel the batch first"
                )
                raise RequestError(message, param="file_id", code="file_in_use")
            self._remove(file)

    @contextmanager
    def found(self, key: str, file_id: str) -> Iterator[StoredFile]:
        """A file of this key that cannot be deleted in the meantime. Raises: RequestError(404)."""
        with self._changing:
            file = self.find(key, file_id)
            self.hold(file_id)
        try:
            yield file
        finally:
            self.release(file_id)

    def hold(self, file_id: str) -> None:
        """Keeps a file from being deleted and from expiring."""
        with self._changing:
            self._in_use[file_id] += 1

    def release(self, file_id: str) -> None:
        """Undoes one `hold`."""
        with self._changing:
            self._in_use[file_id] -= 1

    def discard(self, file_id: str) -> None:
        """Removes a content that was never described."""
        self.content(file_id).unlink(missing_ok=True)
        self.space.free(file_id)

    def sweep(self, alive: Collection[str]) -> None:
        """Removes contents that nobody describes, but for those that are still written."""
        for path in self._path("").iterdir():
            described = path.with_suffix(".json").exists() or path.stem in alive
            if path.name.startswith(".") or (path.suffix == ".jsonl" and not described):
                path.unlink(missing_ok=True)

    def _expire(self) -> None:
        """Deletes the files whose time is over."""
        now_s = self.clock()
        with self._changing:
            for file in [file for file in self._files.values() if file.expires_s <= now_s]:
                if not self._in_use[file.id]:
                    self._remove(file)

    def _remove(self, file: StoredFile) -> None:
        with storing():
            self._path(f"{file.id}.json").unlink(missing_ok=True)
            self.content(file.id).unlink(missing_ok=True)
        del self._files[file.id]
        self.space.free(file.id)

    def _path(self, name: str) -> Path:
        return self.folder / "files" / name


def private_folder(path: Path) -> None:
    """Makes a folder that other users of the machine cannot read: prompts and answers lie in it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


@dataclass
class ServedFiles:
    """The files of a server. inputs: how it reads them."""

    store: FileStore
    inputs: InputLines
    arriving: int = 0  # uploads


def new_id() -> str:
    """An id that nobody can guess."""
    return f"file-{uuid.uuid4().hex}"


@contextmanager
def storing() -> Iterator[None]:
    """Turns errors of the disk into one for clients, which need not know the server's paths. Raises: RequestError(507)."""
    try:
        yield
    except RequestError:
        raise
    except (PtuneError, OSError) as error:
        _log.error("not stored: %s", error)
        message = "the server cannot store this: its disk is full, or cannot be written"
        raise RequestError(message, code="not_stored", status=507) from None


def read_kept(path: Path, kind: type[Kept], what: str) -> Kept | None:
    """The description of a `what`; None, and a line in the log, if it is damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        _log.error("%s is damaged; its %s is left out, and stays on disk", path, what)
        return None
