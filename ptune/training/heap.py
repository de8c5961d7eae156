"""Returns free memory of the C library's allocator to the system.

glibc keeps freed memory, and small objects pin its heap. With gradient checkpointing, each layer first returns free pages
(`ptune.training.segments`). A step without it does not: the pages would have to be zeroed again, which costs more time than
it is worth in memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator

import torch


def give_back() -> None:
    """Returns free pages to the system, unless a GPU computes."""
    if not _gpu():
        trim()


def trim() -> None:
    """Returns free pages to the system. Does nothing if the C library lacks the call (musl, macOS)."""
    if (call := _trim()) is not None:
        call(0)


@contextlib.contextmanager
def tidied(inner: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Returns free pages to the system, then enters `inner`."""
    give_back()
    with inner:
        yield


@functools.cache
def _gpu() -> bool:
    return torch.cuda.is_available()


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
