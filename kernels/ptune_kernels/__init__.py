"""Operators of onnxruntime for ptune's int8 and int4 profiles; `ptune.engine.kernels` finds this package by itself."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

INTERFACE = 3  # what ptune.engine.kernels asks of this package, bits included; another number is not used
LIBRARY = Path(__file__).with_name("operators.so")
PLAIN = "plain"  # the kernel of a processor that has none of its own: correct, and slower than onnxruntime


def kernel() -> str:
    """The kernel that this processor gets: amx, avx512, avx_vnni, avx2 or plain. Raises: OSError where the library cannot be loaded."""
    return _library().ptune_kernel().decode()


def use_kernel(name: str | None) -> bool:
    """Chooses the kernel of sessions that open afterwards, None for the best. False where this processor lacks it."""
    return bool(_library().ptune_use_kernel(None if name is None else name.encode()))


def merge_page() -> bool:
    """Moves 2 MiB of the packed weights of open sessions into a large page, while steps may run. False where all lie in such."""
    return bool(_library().ptune_merge_page())


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.ptune_kernel.restype = ctypes.c_char_p
    library.ptune_use_kernel.argtypes = [ctypes.c_char_p]
    return library
