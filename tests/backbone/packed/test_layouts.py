"""What packed tensors stand for, against integers that were packed one by one, of any shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import packed_checkpoints as made

from ptune.backbone.packed.bits import unpacked
from ptune.backbone.packed.formats import BY_METHOD
from ptune.backbone.packed.layout import check

NAME = "layer"


def unpack(write: Any, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What ptune makes of a packed weight, and what it stands for."""
    tensors, expected = write(NAME, weight)
    form = BY_METHOD[write.settings()["quant_method"]]
    (layer,) = form.layers(tensors)
    assert form.target.format(layer) == f"{NAME}.weight"
    names = {part: name.format(layer) for part, name in form.tensors.items()}
    parts = {part: tensors[name] for part, name in names.items() if name in tensors}
    layout = form.layouts(write.settings())(NAME)
    kept, shape = check(layout, parts, NAME)
    assert shape == tuple(weight.shape)
    return layout.unpack(kept, shape), expected


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=80), st.integers(1, 3))
def test_integers_of_few_bits(bits: int, values: list[int], rows: int) -> None:
    integers = [value & (2**bits - 1) for value in values]
    packed = torch.tensor([made.words(integers, bits)] * rows, dtype=torch.int32)
    found = unpacked(packed, bits, len(integers))
    assert found.dtype == torch.uint8
    assert found.tolist() == [integers] * rows


@settings(deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([-1, 16, 32, 48]),
    version=st.sampled_from([1, 2]),
    desc_act=st.booleans(),
    symmetric=st.booleans(),
    out=st.integers(1, 40),
    words=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_gptq(
    bits: int, group: int, version: int, desc_act: bool, symmetric: bool, out: int, words: int, seed: int
) -> None:
    """Of any number of outputs, and of inputs that groups do not divide."""
    weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(out, 32 * words)).astype(np.float32))
    write = made.Gptq(bits, group, version, desc_act, symmetric)
    found, expected = unpack(write, weight)
    assert torch.equal(found, expected)


@settings(deadline=None)
@given(st.sampled_from([-1, 16, 32, 64]), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_awq(group: int, eights: int, groups: int, seed: int) -> None:
    weight = torch.from_numpy(
        np.random.default_rng(seed).normal(size=(8 * eights, 64 * groups)).astype(np.float32)
    )
    found, expected = unpack(made.Awq(group), weight)
    assert torch.equal(found, expected)


@settings(deadline=None)
@given(
    out=st.integers(1, 50),
    inner=st.integers(1, 50),
    block=st.none() | st.tuples(st.integers(1, 60), st.integers(1, 60)),
    power_of_two=st.booleans(),
)
def test_fp8(out: int, inner: int, block: tuple[int, int] | None, power_of_two: bool) -> None:
    """With blocks that are cut off at the right and below."""
    weight = torch.from_numpy(np.random.default_rng(out + inner).normal(size=(out, inner)).astype(np.float32))
    found, expected = unpack(made.Fp8(block, power_of_two), weight)
    assert torch.equal(found, expected)


@settings(deadline=None)
@given(
    bits=st.integers(1, 8),
    group=st.sampled_from([None, 16, 48]),
    symmetric=st.booleans(),
    actorder=st.booleans(),
    out=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_compressed_words(
    bits: int, group: int | None, symmetric: bool, actorder: bool, out: int, seed: int
) -> None:
    weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(out, 96)).astype(np.float32))
    strategy = "channel" if group is None else "group"
    write = made.Compressed(
        "pack-quantized", bits, "int", strategy, group, symmetric, actorder and group is not None
    )
    found, expected = unpack(write, weight)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", made.FORMATS)
def test_each_format(name: str) -> None:
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32))
    found, expected = unpack(made.FORMATS[name], weight)
    assert torch.equal(found, expected)


def test_zero_points_of_version_1_wrap_round() -> None:
    """A zero point of 0 is stored as the largest number."""
    tensors, _ = made.Gptq(symmetric=True)(NAME, torch.randn(8, 32))
    tensors[f"{NAME}.qzeros"] = torch.full_like(tensors[f"{NAME}.qzeros"], -1)
    layout = BY_METHOD["gptq"].layouts(made.Gptq().settings())(NAME)
    parts, shape = check(layout, {name.removeprefix(f"{NAME}."): one for name, one in tensors.items()}, NAME)
    q = unpacked(tensors[f"{NAME}.qweight"].t(), 4, 32)
    scale = tensors[f"{NAME}.scales"].t().float()
    assert torch.equal(layout.unpack(parts, shape), q.float() * scale)


def test_version_2_is_also_said_in_a_newer_field() -> None:
    write = made.Gptq(version=2)
    tensors, expected = write(NAME, torch.randn(8, 64))
    settings = {name: value for name, value in write.settings().items() if name != "checkpoint_format"}
    layout = BY_METHOD["gptq"].layouts({**settings, "format": "gptq_v2"})(NAME)
    parts, shape = check(layout, {name.removeprefix(f"{NAME}."): one for name, one in tensors.items()}, NAME)
    assert torch.equal(layout.unpack(parts, shape), expected)
