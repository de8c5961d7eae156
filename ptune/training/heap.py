"""Memory that the C library's allocator holds free goes back to the system.

glibc keeps what is freed, and small objects pin its heap: within a few steps a process holds up to twice the bytes that are
in use. Measured on a 110M model: handing free pages back between forward passes took 20 to 27 % off the peak and 1 to 2 %
more time; before every layer that is recomputed, 20 % and 4 %. It also makes the peak one that can be predicted.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator

import torch


def give_back() -> None:
    """Hands free pages back; nothing where a GPU does the work or the C library has no such call (musl, macOS)."""
    trim = _trim()
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def tidied(inner: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """`inner`, entered after free pages have gone back."""
    give_back()
    with inner:
        yield


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if torch.cuda.is_available():
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
