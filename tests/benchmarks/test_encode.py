"""The rows of the encoders' benchmark: int8 counts where it was seen to give the answers of fp32; idx files are read."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks import clothes
from benchmarks.encode import judged

SECONDS = {
    "eager": 6.0, "compiled": 5.0, "plain onnx": 3.0, "openvino int8": 1.5, "fp32": 2.0, "sockets": 4.0, "adapter": 5.0, "int8": 1.0
}  # fmt: skip


@pytest.mark.parametrize(
    ("agreement", "profile", "times"), [(None, "fp32", 3.0), (0.98, "fp32", 3.0), (0.991, "int8", 6.0)]
)
def test_the_best_profile_is_one_that_answers_alike(
    agreement: float | None, profile: str, times: float
) -> None:
    found = {side: [{"seconds": seconds}] * 5 for side, seconds in SECONDS.items()}
    rows = judged("resnet18", 1, found, agreement)
    best = rows["resnet18_b1_best_vs_eager"]
    assert (best["profile"], best["median"], best["met"]) == (profile, times, times >= 2.5)
    assert rows["resnet18_b1_fp32_vs_eager"]["median"] == 3.0
    assert rows["resnet18_b1_sockets_vs_eager"]["median"] == 1.5
    assert rows["resnet18_b1_sockets_vs_eager"]["goal"] is None
    assert rows["resnet18_b1_adapter_vs_plain_onnx"]["median"] == 0.6
    assert rows["resnet18_b1_int8_vs_openvino_int8"]["median"] == 1.5
    assert "resnet18_b1_fp32_vs_channels_last" not in rows  # it was not measured


@pytest.mark.parametrize(("compiled", "met"), [(1.25, True), (1.15, False)])
def test_minilm_has_a_goal_against_compiled_torch(compiled: float, met: bool) -> None:
    seconds = {"eager": 2.0, "compiled": compiled, "plain onnx": 3.0, "fp32": 2.0, "int8": 1.0}
    rows = judged("minilm", 32, {side: [{"seconds": one}] * 5 for side, one in seconds.items()}, None)
    assert (rows["minilm_b32_best_vs_compiled"]["median"], rows["minilm_b32_best_vs_compiled"]["met"]) == (
        compiled,
        met,
    )


@pytest.mark.needs_torch  # `inputs` scales with it
def test_idx_files(tmp_path: Path) -> None:
    images = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28)
    head = struct.pack(">iiii", 2051, 2, 28, 28)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
    labels = gzip.compress(struct.pack(">ii", 2049, 2) + bytes([9, 3]))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(labels)
    found, right = clothes.read(tmp_path, "t10k")
    np.testing.assert_array_equal(found, images)
    assert [clothes.LABELS[label] for label in right] == ["boot", "dress"]
    scaled = clothes.inputs(found, clothes.SIDE)
    assert scaled.shape == (2, 3, clothes.SIDE, clothes.SIDE)
