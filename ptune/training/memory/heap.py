"""Returns free memory of the C library's allocator to the system.

glibc keeps freed memory, and small objects pin its heap. With gradient checkpointing, each layer first returns free pages
(`ptune.training.rows.segments`). A step without it does not: the pages would have to be zeroed again, which costs more time than
it is worth in memory.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch

from ptune.engine.memory import trim


def give_back() -> None:
    """Returns free pages to the system, unless a GPU computes."""
    if not _gpu():
        trim()


@contextlib.contextmanager
def tidied(inner: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Returns free pages to the system, then enters `inner`."""
    give_back()
    with inner:
        yield


@functools.cache
def _gpu() -> bool:
    return torch.cuda.is_available()
