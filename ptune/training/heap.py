"""Memory that the C library's allocator holds free goes back to the system, where memory is what counts.

glibc keeps what is freed, and small objects pin its heap. With gradient checkpointing each layer starts with free pages handed
back (`ptune.training.segments`). A step without it does not hand them back: the pages have to be zeroed again, which took an
eighth of a step's time on SmolLM2 and saved 1 % of its peak; 0 to 9 % in five settings of
benchmarks/plan.py. Each figure is one run.
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
