"""Files that are mapped into this process, and the memory that they hold."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAPS = Path("/proc/self/maps")
_MADV_DONTNEED = 4  # of Linux: of a file's mapping that nobody wrote to, pages are read from the file again where they are used
_one_at_a_time = threading.Lock()
_locks: dict[Path, threading.RLock] = {}

Range = tuple[int, int]  # addresses, first and behind the last


@contextmanager
def let_go(folder: Path, pattern: str) -> Iterator[None]:
    """Gives back the memory of what the block maps of a folder's files, and what still maps them at its end.

    Nobody may have written there; what is used again comes back by itself. Mappings that were there before stay as they are:
    another thread may end them at any time, and what lies at their address by then would be lost. For the same reason
    blocks on one folder wait for each other.

    Where this system has no such call nothing happens: it only saves memory.
    """
    if sys.platform != "linux" or not MAPS.is_file():
        yield
        return
    folder = folder.resolve()
    with _one_at_a_time:
        lock = _locks.setdefault(folder, threading.RLock())
    with lock:
        before = set(mappings(folder, pattern))
        yield
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for start, end in set(mappings(folder, pattern)) - before:
            advise(start, end - start, _MADV_DONTNEED)


def mappings(folder: Path, pattern: str) -> Iterator[Range]:
    """Where a folder's files are mapped whose names match the pattern."""
    names = {str(path.resolve()) for path in folder.glob(pattern)}
    for line in MAPS.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, end = fields[0].split("-")
            yield int(start, 16), int(end, 16)
