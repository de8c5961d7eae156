"""Reads safetensors files with numpy alone (https://github.com/huggingface/safetensors#format)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptune.errors import FormatError

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_WHOLE = {"U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}  # whole numbers, by numpy's names


def read_tensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Reads every tensor of a file as float32.

    Raises: FormatError where the file is missing, damaged, or holds another type than F32, F16 or BF16.
    """
    return _read(path, _tensor)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The same, and tensors of whole numbers as int64. Raises: FormatError."""
    return _read(path, _array)


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Writes tensors as float32, ordered by name: the same tensors are the same bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors):
        begin, end = end, end + 4 * tensors[name].size
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(np.ascontiguousarray(tensors[name], "<f4").data)


def _read(
    path: Path, tensor: Callable[[str, Any, memoryview], npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}") from None
    try:
        header, data = _split(content)
        return {name: tensor(name, entry, data) for name, entry in header.items() if name != "__metadata__"}
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


def _array(name: str, entry: Any, data: memoryview) -> npt.NDArray[Any]:
    kind = entry.get("dtype") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in _WHOLE:
        return _tensor(name, entry, data)
    raw, shape = _bytes(name, entry, data, {kind: np.dtype(_WHOLE[kind]).itemsize})
    return np.frombuffer(raw, _WHOLE[kind]).astype(np.int64).reshape(shape)


def _tensor(name: str, entry: Any, data: memoryview) -> npt.NDArray[np.float32]:
    raw, shape = _bytes(name, entry, data, _ITEM_BYTES)
    kind = entry["dtype"]
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(raw, "<f4" if kind == "F32" else "<f2").astype(np.float32).reshape(shape)


def _bytes(
    name: str, entry: Any, data: memoryview, item_bytes: Mapping[str, int]
) -> tuple[memoryview, list[int]]:
    """The bytes of a tensor and its shape. item_bytes: of the types that it may have."""
    try:
        kind, shape, (begin, end) = entry["dtype"], [*entry["shape"]], entry["data_offsets"]
        whole = isinstance(kind, str) and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"the header's entry of {name!r} is not {{dtype, shape, data_offsets}}")
    if kind not in item_bytes:
        raise ValueError(f"{name!r} has type {kind}; known: {', '.join(item_bytes)}")
    if end > len(data) or end - begin != math.prod(shape) * item_bytes[kind]:
        raise ValueError(f"{name!r} {shape} of {kind} cannot lie at bytes {begin} to {end} of {len(data)}")
    return data[begin:end], shape
