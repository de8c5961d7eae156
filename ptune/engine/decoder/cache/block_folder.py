"""A folder of blocks of keys and values: a file each, of bounded size together, those used longest ago deleted first.

The files are all there is: no index, so that a restart finds everything, and several servers may share a folder. A file is
written whole or not at all, and its content is used only if its hash, its name and its tokens are right. It is readable by the
server's user alone, since it holds what was said.

    8 bytes    b"ptunekv1"
    32 bytes   SHA-256 of all that follows, and of the name
    8 n bytes  the tokens
    the rest   keys and values, one cache behind the other
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.cache.kv_blocks import Block
from ptune.engine.options import KV_DISK_QUEUE_BYTES
from ptune.errors import PtuneError, UsageError
from ptune.formats.whole_write import whole_file

Content = npt.NDArray[np.uint8]

MAGIC = b"ptunekv1"
HASH_BYTES = 32
SUFFIX = ".kv"
ROOM_PART = 16  # where the folder is full, one part in so many is made free at once
STALE_S = 3600.0  # after which a file that is still not whole was left by a server that died

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DiskStats:
    """A folder at one moment; all but its size count from the engine's start."""

    bytes: int  # of files, as of the last look at the folder and what was written since
    read_tokens: int
    written_tokens: int
    dropped_tokens: int  # that were not written: the disk was too slow, or is full
    damaged: int  # files that were not what was written


class BlockFolder:
    """Reads in the caller's thread and writes in one of its own. Its methods are for one thread, the counts for any."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """limit_bytes: of all files. Raises: UsageError where the folder cannot be written."""
        self._folder, self._limit_bytes = folder, limit_bytes
        self._queue: OrderedDict[str, tuple[Block, Content]] = OrderedDict()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._closed = self._warned = False
        self._read_tokens = self._written_tokens = self._dropped_tokens = self._damaged = 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            for part in folder.glob(".*.part"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - part.stat().st_mtime > STALE_S:
                        part.unlink()
            self._bytes = sum(size for _, size, _ in self._files())
        except OSError as error:
            raise UsageError(f"--kv-disk {folder} cannot be used: {error.strerror}") from None
        self._thread = threading.Thread(target=self._write_all, name="ptune-kv-disk", daemon=True)
        self._thread.start()

    def stats(self) -> DiskStats:
        return DiskStats(
            self._bytes, self._read_tokens, self._written_tokens, self._dropped_tokens, self._damaged
        )

    def has(self, block: Block) -> bool:
        """Whether a block was written, or is going to be."""
        with self._changed:
            queued = block.key in self._queue
        with contextlib.suppress(OSError):  # the disk fails, or is no more there: nothing is found on it
            return queued or self._path(block).is_file()
        return False

    def used(self, block: Block) -> None:
        """Counts a block as used now. Of a text the last block counts as used longest ago, since the others are found without it."""
        now_ns = time.time_ns() - block.number * 1_000_000
        with contextlib.suppress(OSError):
            os.utime(self._path(block), ns=(now_ns, now_ns))

    def put(self, block: Block, content: Content, *, wait: bool = False) -> bool:
        """Queues a block to be written; False where too much waits already. wait: until there is room."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._fits(content))
            if self._closed or not self._fits(content):
                self._dropped_tokens += len(block.tokens) // 8
                return False
            self._queue[block.key] = block, content
            self._queued_bytes += content.nbytes
            self._changed.notify_all()
        return True

    def get(self, block: Block, size_bytes: int) -> Content | None:
        """Returns the keys and values of a block; None where they are not there, or not what was written."""
        with self._changed:
            queued = self._queue.get(block.key)
        content = self._read(block, size_bytes) if queued is None else queued[1]
        if content is not None:
            self._read_tokens += len(block.tokens) // 8
        return content

    def close(self) -> None:
        """Writes what waits, and ends the thread. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _fits(self, content: Content) -> bool:
        """Whether so much may wait, too; one block always may."""
        return not self._queue or self._queued_bytes + content.nbytes <= KV_DISK_QUEUE_BYTES

    def _read(self, block: Block, size_bytes: int) -> Content | None:
        path, head = self._path(block), len(MAGIC) + HASH_BYTES
        try:
            whole = np.fromfile(path, np.uint8)
        except OSError:
            return None
        body = whole[head:]
        tokens, content = body[: len(block.tokens)], body[len(block.tokens) :]
        right = (
            content.nbytes == size_bytes
            and whole[:head].tobytes() == MAGIC + _hash(block.key, body)
            and tokens.tobytes() == block.tokens
        )
        if not right:
            self._damaged += 1
            _log.warning("%s is damaged: it is deleted, and its tokens are computed again", path)
            with contextlib.suppress(OSError):  # a disk that fails can often be read only
                path.unlink(missing_ok=True)
                with self._changed:
                    self._bytes -= whole.nbytes
            return None
        self.used(block)
        return content

    def _write_all(self) -> None:
        """The thread: one file after another until the folder is closed and nothing waits."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                key, (block, content) = next(iter(self._queue.items()))
            try:
                self._write(block, content)
            except (OSError, PtuneError) as error:
                self._dropped_tokens += len(block.tokens) // 8
                if not self._warned:
                    _log.warning("idle conversations are not kept: %s", error)
                self._warned = True
            with self._changed:
                del self._queue[key]
                self._queued_bytes -= content.nbytes
                self._changed.notify_all()

    def _write(self, block: Block, content: Content) -> None:
        body = np.concatenate([np.frombuffer(block.tokens, np.uint8), content])
        size_bytes = len(MAGIC) + HASH_BYTES + body.nbytes
        if self._path(block).is_file():  # another server wrote it meanwhile
            return
        if self._bytes + size_bytes > self._limit_bytes:
            self._make_room(size_bytes)
        if self._bytes + size_bytes > self._limit_bytes:
            self._dropped_tokens += len(block.tokens) // 8
            return
        with whole_file(self._path(block), mode=0o600) as part, part.open("wb") as file:
            file.write(MAGIC + _hash(block.key, body))
            file.write(body.data)
        with self._changed:
            self._bytes += size_bytes
        self._written_tokens += len(block.tokens) // 8
        self.used(block)

    def _make_room(self, size_bytes: int) -> None:
        """Deletes the blocks that were used longest ago; those that another server has written since count, too."""
        files = sorted(self._files())
        held = sum(size for _, size, _ in files)
        wanted = min(self._limit_bytes - size_bytes, self._limit_bytes - self._limit_bytes // ROOM_PART)
        for _, size, path in files:
            if held <= wanted:
                break
            path.unlink(missing_ok=True)
            held -= size
        with self._changed:
            self._bytes = held

    def _files(self) -> list[tuple[int, int, Path]]:
        """When each file was used, in ns, its size and its path."""
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size, path))
        return found

    def _path(self, block: Block) -> Path:
        return self._folder / f"{block.key}{SUFFIX}"


def _hash(key: str, body: Content) -> bytes:
    sha = hashlib.sha256(bytes.fromhex(key))
    sha.update(body.data)
    return sha.digest()
