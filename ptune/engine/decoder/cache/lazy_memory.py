"""Large arrays of which little may ever be used: memory that is taken where it is written to, and can be given back."""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FLOAT = np.dtype(np.float32)
PAGE_BYTES = mmap.PAGESIZE
# What makes the system take pages back at once (Linux) or when it needs them (macOS). None: there is no such call.
GIVE_BACK: int | None = getattr(mmap, "MADV_DONTNEED" if sys.platform == "linux" else "MADV_FREE", None)
# Python 3.13 names it. Without the flag Linux may refuse to reserve more than the machine's memory at once.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class LazyMemory:
    """Zeros in one private mapping. Pages that are never written take no memory, however often they are read.

    Pages are small ones: in huge pages the first few tokens of a sequence would take megabytes in each layer, and the first
    requests after a start would wait for seconds until the system has cleared them all. Huge ones are for what is written in
    megabytes, and read from end to end in every step.
    """

    def __init__(self, size_bytes: int, *, huge_pages: bool = False) -> None:
        """Raises: MemoryError where the system does not reserve so many addresses."""
        self.size_bytes = size_bytes = max(size_bytes, PAGE_BYTES)
        try:
            if sys.platform == "win32":
                self._memory = mmap.mmap(-1, size_bytes)
            else:
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
                self._memory = mmap.mmap(-1, size_bytes, flags=flags)
        except (OSError, OverflowError) as error:
            raise MemoryError(f"{size_bytes} bytes") from error
        advice = getattr(mmap, "MADV_HUGEPAGE" if huge_pages else "MADV_NOHUGEPAGE", None)
        if advice is not None:
            with contextlib.suppress(OSError):  # a kernel without huge pages does not know the advice
                self._memory.madvise(advice)

    def array(self, start_bytes: int, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT) -> Array:
        """A view of a part of it."""
        return np.frombuffer(self._memory, dtype, math.prod(shape), start_bytes).reshape(shape)

    def give_back(self, start_bytes: int, size_bytes: int) -> None:
        """Returns whole pages to the system; their content is lost. Both numbers are multiples of PAGE_BYTES."""
        if GIVE_BACK is not None and size_bytes > 0:
            self._memory.madvise(GIVE_BACK, start_bytes, size_bytes)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT, *, huge_pages: bool = False) -> Array:
    """An array in such memory of its own. Raises: MemoryError."""
    return LazyMemory(dtype.itemsize * math.prod(shape), huge_pages=huge_pages).array(0, shape, dtype)
