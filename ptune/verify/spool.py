"""Keeps what a proof compares in files, since the lists of a large vocabulary are the most that it holds at once.

Sixteen texts with 32 positions of 262,144 tokens are 537 MB of log-probabilities, and up to six such lists are compared.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from ptune.formats.cache import cache_root
from ptune.parity import Array


def spooled(values: Array) -> Array:
    """The same numbers, read-only, mapped from a file without a name: the system takes their memory back when it needs it.

    Values stay in memory where no file takes them.
    """
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=_folder()) as file:
        # Of a full disk writing is an error; a mapping would end the process.
        file.write(np.ascontiguousarray(values).data)
        file.flush()
        return np.memmap(file, values.dtype, "r", shape=values.shape)
    return values


def _folder() -> Path | None:
    """Where large files belong: /tmp is memory on many systems. None: the default."""
    try:
        root = cache_root()
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, or a user without a home
        return None
    return root
