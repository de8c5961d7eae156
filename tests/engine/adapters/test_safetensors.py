"""The safetensors reader against the reference writer, and against files that are damaged or hostile."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from ptune.engine.adapters.safetensors import read_tensors
from ptune.errors import FormatError

TENSORS = {
    "a": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "b": torch.randn(4, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16),
    "c": torch.tensor([[1.5, -65504.0]], dtype=torch.float16),
}
CONTENT = save(TENSORS, metadata={"format": "pt"})


def file(folder: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == np.float32
        assert (found[name] == tensor.float().numpy()).all()


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"{", b""),
        (b"\xff\xfe", b""),
        (b"[" * 100_000, b""),
        ([], b""),
        ({"a": 1}, b""),
        ({"a": {"dtype": "F32", "shape": [1]}}, b""),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(3)),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, bytes(4)),
        ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, bytes(4)),
        ({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 1 << 82]}}, bytes(4)),
        ({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    ],
)
def test_wrong_header_is_a_format_error(tmp_path: Path, header: object, data: bytes) -> None:
    with pytest.raises(FormatError, match=r"x\.safetensors is damaged"):
        read_tensors(file(tmp_path, header, data))


def test_header_longer_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(FormatError, match="damaged"):
        read_tensors(tmp_path / "x")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot read"):
        read_tensors(tmp_path / "x")


@settings(max_examples=200)
@given(
    cut=st.integers(0, len(CONTENT) - 1),
    flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
)
def test_damaged_file_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(CONTENT[:cut] if not flips else CONTENT)
    for place, value in flips:
        content[min(place, len(content) - 1)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    if not flips:
        with pytest.raises(FormatError):
            read_tensors(path)
        return
    with contextlib.suppress(FormatError):
        read_tensors(path)
