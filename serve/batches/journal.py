"""What a batch has answered: a file that grows by whole lines, each of them on disk before it counts.

The file is the journal and the result in one: after a restart its lines say which requests are done.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """One file of lines, which is open only while it is written: there may be many. Its methods are called from one thread."""

    def __init__(self, path: Path, seen: Callable[[dict[str, Any]], bool]) -> None:
        """Opens the file, or makes it. seen: told each line that is there already; False: the line is none of its own.

        Whatever follows the last whole line was torn when the server ended, and is cut off. Raises: OSError.
        """
        path.touch()
        self._path = path
        self.size_bytes = _whole(path, seen)
        os.truncate(path, self.size_bytes)

    def append(self, line: bytes) -> None:
        """Adds a line, and waits until it is on disk. Raises: OSError, and the file is as before."""
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self.size_bytes)
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self.size_bytes)
                raise
        self.size_bytes += len(line)


def _whole(path: Path, seen: Callable[[dict[str, Any]], bool]) -> int:
    """How many bytes of a file are whole lines."""
    size_bytes = 0
    with path.open("rb") as file:
        for raw in file:
            try:
                entry = json.loads(raw)
            except (ValueError, RecursionError):
                break
            if raw[-1:] != b"\n" or not isinstance(entry, dict) or not seen(entry):
                break
            size_bytes += len(raw)
    return size_bytes
