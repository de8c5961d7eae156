"""Blocks of 32 weights in 4 bits: those that a source left are found again, the others are rounded well."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.export.blocks import BLOCK, blocks_of, bytes_of, nibbles, sums_of_blocks, with_offsets

HALVES = st.floats(2**-8, 4, width=16)


@st.composite
def quantised(draw: st.DrawFn) -> np.ndarray:
    """A weight [out, in] as GGUF's Q4_1 has them: w = d q + m, d and m in half precision. q need not use all its values."""
    rows, blocks = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = rows * blocks
    d = np.array(draw(st.lists(HALVES, min_size=count, max_size=count)), np.float32)
    low = (-d * random.uniform(-3, 18, count)).astype(np.float16).astype(np.float32)
    first, last = np.sort(random.integers(0, 16, (2, count, 1)), axis=0)
    q = random.integers(first, last + 1, (count, BLOCK)).astype(np.float32)
    return (d[:, None] * q + low[:, None]).reshape(rows, -1)


@settings(max_examples=200)
@given(quantised(), st.integers(0, BLOCK - 1))
def test_what_was_in_blocks_is_kept(weight: np.ndarray, cut: int) -> None:
    width = weight.shape[1] - cut
    blocks = blocks_of(weight[:, :width])
    assert blocks.kept == 1
    assert np.abs(blocks.floats(width) - weight[:, :width]).max() <= 1e-6 * np.abs(weight).max()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_what_gguf_wrote_is_kept(kind: str) -> None:
    weight = np.random.default_rng(0).standard_normal((32, 96)).astype(np.float32)
    source = GGMLQuantizationType[kind]
    weight = quants.dequantize(quants.quantize(weight, source), source)
    blocks = blocks_of(weight)
    assert blocks.kept == 1
    assert np.abs(blocks.floats(96) - weight).max() <= 1e-6 * np.abs(weight).max()
    assert blocks.offset.any() == (kind == "Q4_1")


@pytest.mark.parametrize("moved", [0, 0.02])
def test_a_value_between_two_steps_is_no_block_of_a_source(moved: float) -> None:
    steps = np.arange(BLOCK, dtype=np.float32) % 16
    steps[5] += moved
    assert blocks_of(0.1 * steps[None]).kept == (moved == 0)


def test_others_are_rounded_better_than_to_their_range() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    by_block = weight.reshape(-1, BLOCK)
    low, high = by_block.min(-1, keepdims=True), by_block.max(-1, keepdims=True)
    step = (high - low) / 15
    plain = np.square(np.rint((by_block - low) / step) * step + low - by_block).mean()
    blocks = blocks_of(weight)
    assert blocks.kept == 0
    assert np.square(blocks.floats(128) - weight).mean() < 0.9 * plain
    # None is worse: the whole range is one of those that are tried.
    each = np.square(blocks.floats(128) - weight).reshape(-1, BLOCK).mean(-1)
    assert (
        each <= np.square(np.rint((by_block - low) / step) * step + low - by_block).mean(-1) * 1.001
    ).all()


@pytest.mark.parametrize("width", [32, 576, 1100])
def test_offsets_are_weights_of_sums(width: int) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((40, width)).astype(np.float32)
    x = random.standard_normal((7, width)).astype(np.float32)
    blocks = blocks_of(weight)
    sums = x @ sums_of_blocks(width).floats(width).T
    filled = np.pad(x, ((0, 0), (0, -width % BLOCK)))
    assert np.allclose(sums[:, : filled.shape[1] // BLOCK], filled.reshape(7, -1, BLOCK).sum(-1), atol=1e-4)
    joined = np.concatenate([sums, sums, x], axis=1)
    extended = with_offsets(blocks)
    assert not extended.offset.any()
    error = joined @ extended.floats(joined.shape[1]).T - x @ blocks.floats(width).T
    steps = np.repeat(blocks.scale, BLOCK, axis=1)[:, :width]
    assert np.sqrt(np.square(error).mean()) < 0.01 * np.sqrt(np.square(x @ steps.T).mean() * BLOCK)


def test_eight_bits_keep_what_was_in_eight() -> None:
    source = GGMLQuantizationType.Q8_0
    weight = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    weight = quants.dequantize(quants.quantize(weight, source), source)
    q, scale = bytes_of(weight)
    back = (scale[..., None] * (q.astype(np.float32) - 128)).reshape(weight.shape)
    assert np.abs(back - weight).max() <= 1e-6 * np.abs(weight).max()


def test_zeros_and_constants() -> None:
    weight = np.repeat(np.array([[0.0, 0.3, -2.5]], np.float32), BLOCK, axis=1)
    blocks = blocks_of(weight)
    assert blocks.kept == 1
    assert np.array_equal(blocks.floats(96), weight)
    assert not bytes_of(np.zeros((2, 32), np.float32))[0].astype(int).max() - 128


def test_nibbles() -> None:
    assert nibbles(np.array([[1, 2, 3]], np.uint8)).tolist() == [[0x21, 0x03]]
