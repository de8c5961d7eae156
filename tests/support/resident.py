"""What Linux says of the memory behind a mapping."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptune.engine.decoder.cache.lazy_memory import PAGE_BYTES, LazyMemory

PRESENT, EXCLUSIVE = np.uint64(1 << 63), np.uint64(1 << 56)


def resident_bytes(memory: LazyMemory) -> int:
    """Bytes of it that are in memory, by /proc/self/pagemap. The page of zeros that all reads share does not count."""
    first = memory.array(0, (1,)).ctypes.data // PAGE_BYTES
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(8 * first)
        pages = np.frombuffer(file.read(8 * -(-memory.size_bytes // PAGE_BYTES)), np.uint64)
    own = PRESENT | EXCLUSIVE
    return PAGE_BYTES * int(np.count_nonzero((pages & own) == own))
