"""Large arrays of which little may ever be used."""

from __future__ import annotations

import contextlib
import math
import mmap

import numpy as np
import numpy.typing as npt


def zeros(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Float32 zeros that take memory where they are written to, in small pages.

    numpy asks for huge pages where arrays are large. There the first few tokens of a sequence would take megabytes in each
    layer, and the first requests after a start would wait for seconds until the system has cleared them all.

    Raises: MemoryError.
    """
    size = 4 * math.prod(shape)
    if not size:
        return np.zeros(shape, np.float32)
    try:
        memory = mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryError(f"{size} bytes") from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages does not know the advice
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)
