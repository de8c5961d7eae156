"""Reads safetensors files with numpy alone (https://github.com/huggingface/safetensors#format)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptune.errors import FormatError

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def read_tensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Reads every tensor of a file as float32.

    Raises: FormatError where the file is missing, damaged, or holds another type than F32, F16 or BF16.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}") from None
    try:
        header, data = _split(content)
        return {name: _tensor(name, entry, data) for name, entry in header.items() if name != "__metadata__"}
    except ValueError as error:  # also a header that is not UTF-8 or not JSON
        raise FormatError(f"{path} is damaged: {error}") from None


def float32_bytes(path: Path, counts: Callable[[str], bool] = lambda _: True) -> int:
    """Size as float32, in bytes, of a file's tensors whose name counts; reads its header only.

    Raises: FormatError, as `read_tensors`.
    """
    try:
        with path.open("rb") as file:
            first = file.read(8)
            header, _ = _split(first + file.read(min(int.from_bytes(first, "little"), MAX_HEADER_BYTES)))
        return sum(
            4 * math.prod(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__" and counts(name)
        )
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{path} is damaged: {error}") from None


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The file is: header length (8 bytes, little-endian), header (JSON), data."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError(f"its header should take {length} bytes, the file has {len(content)}")
    try:
        header = json.loads(content[8 : 8 + length])
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header, memoryview(content)[8 + length :]


def _tensor(name: str, entry: Any, data: memoryview) -> npt.NDArray[np.float32]:
    try:
        kind, shape, (begin, end) = entry["dtype"], [*entry["shape"]], entry["data_offsets"]
        whole = isinstance(kind, str) and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"the header's entry of {name!r} is not {{dtype, shape, data_offsets}}")
    if kind not in _ITEM_BYTES:
        raise ValueError(f"{name!r} has type {kind}; known: {', '.join(_ITEM_BYTES)}")
    if end > len(data) or end - begin != math.prod(shape) * _ITEM_BYTES[kind]:
        raise ValueError(f"{name!r} {shape} of {kind} cannot lie at bytes {begin} to {end} of {len(data)}")
    raw = data[begin:end]
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(raw, "<f4" if kind == "F32" else "<f2").astype(np.float32).reshape(shape)
