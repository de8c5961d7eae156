"""`.onnx_adapter`: what is written is what onnxruntime reads, and what is no adapter is refused in a sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptune.errors import FormatError
from ptune.formats.onnx_adapter import Pair, factor_of, read_onnx_adapter, write_onnx_adapter

Q = "model.layers.0.self_attn.q_proj"
IN_ONE_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(path: Path, tensors: dict[str, Any]) -> Path:
    """A file that onnxruntime wrote."""
    file = onnxruntime.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters(
        {name: onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for name, tensor in tensors.items()}
    )
    file.export_adapter(str(path))
    return path


@st.composite
def pairs(draw: st.DrawFn) -> dict[str, Pair]:
    """Factors of a few layers, whose ranks differ, in one type of numbers."""
    layers = draw(
        st.lists(
            st.builds(
                "model.layers.{}.{}".format,
                st.integers(0, 40),
                st.sampled_from(["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]),
            ),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    kind, width = draw(st.sampled_from([np.float32, np.float16])), st.integers(1, 6)
    found: dict[str, Pair] = {}
    for layer in layers:
        inner, rank, outer = draw(width), draw(width), draw(width)
        numbers = st.floats(width=16 if kind is np.float16 else 32, allow_nan=False)
        found[layer] = (
            draw(arrays(kind, (inner, rank), elements=numbers)),
            draw(arrays(kind, (rank, outer), elements=numbers)),
        )
    return found


@IN_ONE_FOLDER
@given(pairs())
def test_what_is_written_is_read(tmp_path: Path, adapter: dict[str, Pair]) -> None:
    path = tmp_path / "x.onnx_adapter"
    write_onnx_adapter(path, adapter)
    again = read_onnx_adapter(path)
    assert again.keys() == adapter.keys()
    for layer, pair in adapter.items():
        for before, after in zip(pair, again[layer], strict=True):
            assert (before.dtype, before.tobytes()) == (after.dtype, after.tobytes())


def test_names_of_the_model_builder(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx_adapter"
    write_onnx_adapter(
        path, {Q: (np.ones((3, 2), np.float32).T.T[::1], np.asfortranarray(np.eye(2, 4, dtype=np.float32)))}
    )
    read = onnxruntime.AdapterFormat.read_adapter(str(path)).get_parameters()
    assert sorted(read) == [
        "model.layers.0.attn.q_proj.lora_A.MatMul.weight",
        "model.layers.0.attn.q_proj.lora_B.MatMul.weight",
    ]
    assert read["model.layers.0.attn.q_proj.lora_B.MatMul.weight"].numpy().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
    ]


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.attn.q_proj.lora_A.MatMul.weight",  # onnxruntime-genai's builder, and Olive after it
        "model.layers.0.self_attn.q_proj.lora_A.weight",  # olive convert-adapters
        "model.layers.0.self_attn.q_proj.lora_A.default.weight",  # torch's exporter
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",  # PEFT
    ],
)
def test_names_that_are_read(name: str) -> None:
    assert factor_of(name) == (Q, "A")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.attn.q_proj.lora_A.quant.weight",
        "model.layers.0.attn.q_proj.MatMul.weight",
        "model.layers.0.self_attn.q_proj.lora_B.bias",
        "model.embed_tokens.lora_embedding_A",
        ".lora_A.weight",
    ],
)
def test_names_that_are_none(name: str) -> None:
    assert factor_of(name) is None


A, B = np.ones((4, 2), np.float32), np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{Q}.lora_A.weight": A}, "has no lora_B of model.layers.0.self_attn.q_proj"),
        ({f"{Q}.lora_B.weight": B}, "has no lora_A of model.layers.0.self_attn.q_proj"),
        (
            {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B.T},
            r"are \[4, 2\] and \[3, 2\], and have to be \[in, rank\] and \[rank, out\]",
        ),
        (
            {f"{Q}.lora_A.weight": A[:, :0], f"{Q}.lora_B.weight": B[:0]},
            r"are \[4, 0\] and \[0, 3\]",
        ),
        ({f"{Q}.lora_A.weight": A[0], f"{Q}.lora_B.weight": B}, r"are \[2\] and \[2, 3\]"),
        (
            {f"{Q}.lora_A.weight": A, f"{Q}.lora_A.MatMul.weight": A},
            "holds lora_A of model.layers.0.self_attn.q_proj twice",
        ),
        (
            {f"{Q}.lora_A.weight": A.astype(np.float64), f"{Q}.lora_B.weight": B},
            r"as tensor\(double\), and factors are read in float32 and float16 alone",
        ),
        ({"bias": A}, "holds 'bias', and only factors of LoRA are read"),
        ({}, "is empty"),
    ],
)
def test_what_is_refused(tensors: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=said):
        read_onnx_adapter(written(tmp_path / "x.onnx_adapter", tensors))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"x\.onnx_adapter is missing"):
        read_onnx_adapter(tmp_path / "x.onnx_adapter")


@IN_ONE_FOLDER
@given(st.data())
def test_damaged_files(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes, a cut file, and one with some bytes changed: read as factors, or refused in a sentence."""
    path = tmp_path / "x.onnx_adapter"
    whole = written(path, {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}).read_bytes()
    changed = bytearray(whole)
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)
    ):
        changed[at] = byte
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    path.write_bytes(data.draw(st.sampled_from([bytes(changed), cut, data.draw(st.binary(max_size=64))])))
    with contextlib.suppress(FormatError):  # any other error is one
        assert all(a.shape[1] == b.shape[0] for a, b in read_onnx_adapter(path).values())
