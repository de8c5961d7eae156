"""Files that are mapped into this process, and the memory that they hold."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

MAPS = Path("/proc/self/maps")
_MADV_DONTNEED = 4  # of Linux: of a file's mapping that nobody wrote to, pages are read from the file again where they are used


def let_go(path: Path) -> None:
    """Gives back the memory of a file's mappings, which must not have been written to; what is used again comes back by itself.

    Where this system has no such call nothing happens: it only saves memory.
    """
    if sys.platform != "linux" or not MAPS.is_file():
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in mappings(path):
        advise(start, end - start, _MADV_DONTNEED)


def mappings(path: Path) -> Iterator[tuple[int, int]]:
    """Addresses at which a file is mapped, first and behind the last."""
    name = str(path.resolve())
    for line in MAPS.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name:
            start, end = fields[0].split("-")
            yield int(start, 16), int(end, 16)
