"""What an adapter is, as a hash of all the numbers that it adds: the same from a folder, a sum or a program's memory, under any name."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ptune.engine.adapters.lora import Adapter

_digests: weakref.WeakKeyDictionary[Adapter, bytes] = weakref.WeakKeyDictionary()


def digest_of(adapter: Adapter | None) -> bytes:
    """SHA-256 of an adapter; empty for the bare base. It takes a millisecond for each few MB, once for each adapter in memory."""
    if adapter is None:
        return b""
    if (known := _digests.get(adapter)) is None:
        sha = hashlib.sha256()
        _add(
            sha,
            {field.name: getattr(adapter, field.name) for field in fields(adapter) if field.name != "name"},
        )
        known = _digests[adapter] = sha.digest()
    return known


def _add(sha: Any, value: Any) -> None:
    """Adds a value with its type and its size, so that no two values run into each other."""
    if isinstance(value, np.ndarray):
        sha.update(f"array {value.dtype} {value.shape};".encode())
        sha.update(np.ascontiguousarray(value).data if value.size else b"")
    elif isinstance(value, Mapping):
        sha.update(f"map {len(value)};".encode())
        for key in sorted(value):
            _add(sha, key)
            _add(sha, value[key])
    elif isinstance(value, tuple):
        sha.update(f"tuple {len(value)};".encode())
        for one in value:
            _add(sha, one)
    elif is_dataclass(value):
        _add(sha, {field.name: getattr(value, field.name) for field in fields(value)})
    else:
        text = repr(value).encode()
        sha.update(f"{type(value).__name__} {len(text)};".encode() + text)
