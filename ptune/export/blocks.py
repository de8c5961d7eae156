"""Weights in blocks of 32 along the input, 4 bits each: w = scale * (q - zero) + offset, with q and zero from 0 to 15.

A block whose values are at most 16 equally spaced numbers is kept exactly. Such are the blocks of a source that was quantised
this way (GGUF's Q4_1: w = d q + m, and Q4_0), whatever its file format. Other blocks are rounded over several ranges, with ends
cut off more and more, and the one with the least squared error is taken; scale and offset are fitted to the rounded values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BLOCK = 32
LARGEST = 15
# Possible numbers of steps in a block's range. Numbers below eight have a multiple among these.
_STEPS = range(LARGEST, LARGEST // 2, -1)
NEAR = 1e-4  # of a step: the largest error of float32
_RANGES = (
    1,
    0.96,
    0.92,
    0.88,
    0.84,
    0.8,
    0.76,
    0.72,
)  # for a rounded block: share of its range that is not cut off
_ROWS_BYTES = 1 << 26  # of a weight to process at a time
_MIDDLE = 8  # the zero point of numbers around zero


@dataclass(frozen=True)
class Blocks:
    """A weight [out, in] in blocks; the last one of each row may be padded."""

    q: NDArray[np.uint8]  # [out, blocks, 32], 0 to 15
    scale: Array  # [out, blocks]
    zero: NDArray[np.uint8]  # [out, blocks], 0 to 15
    offset: Array  # [out, blocks]
    kept: float  # share of blocks that are kept exactly

    def floats(self, width: int) -> Array:
        """The values of the blocks, [out, width]."""
        steps = self.q.astype(np.float32) - self.zero[..., None]
        values: Array = self.scale[..., None] * steps + self.offset[..., None]
        return values.reshape(len(values), -1)[:, :width]


def blocks_of(weight: Array) -> Blocks:
    """Divides a weight [out, in] into blocks."""
    filled = np.pad(weight, ((0, 0), (0, -weight.shape[1] % BLOCK)), mode="edge")
    rows = max(1, _ROWS_BYTES // filled[:1].nbytes)
    parts = [
        _of_rows(filled[start : start + rows].reshape(-1, BLOCK)) for start in range(0, len(filled), rows)
    ]
    q, step, low, kept = (np.concatenate(column) for column in zip(*parts, strict=True))
    safe = np.where(step > 0, step, 1)
    zero = np.clip(np.rint(-low / safe), 0, LARGEST)
    offset = low + zero * step
    offset[np.abs(offset) <= NEAR * step] = 0  # symmetric blocks, as Q4_0 has them
    shape = (len(filled), -1)
    return Blocks(
        q.reshape(*shape, BLOCK),
        step.astype(np.float32).reshape(shape),
        zero.astype(np.uint8).reshape(shape),
        offset.astype(np.float32).reshape(shape),
        float(kept.mean()),
    )


def _of_rows(
    blocks: Array,
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Returns q, step, lowest value and whether it is kept, for blocks [n, 32]: w = step * q + low."""
    step, kept = _own_step(blocks)
    low = blocks.min(axis=-1).astype(np.float64)
    others = ~kept
    if others.any():
        step[others], low[others] = _fitted(blocks[others])
    return _rounded(blocks, step, low), step, low, kept


def _own_step(blocks: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Finds the step of which a block's values are multiples, counted from the lowest; returns whether there is one, too."""
    low = blocks.min(axis=-1)
    span = blocks.max(axis=-1).astype(np.float64) - low
    step, done = np.zeros(len(blocks)), span == 0
    for steps in _STEPS:
        undecided = np.flatnonzero(~done)
        if not len(undecided):
            break
        candidate = span[undecided] / steps
        # The first few values rule out this step for nearly all blocks.
        for columns in (4, BLOCK):
            ratio = (blocks[undecided, :columns] - low[undecided, None]) / candidate[:, None].astype(
                np.float32
            )
            fits = (np.abs(ratio - np.rint(ratio)) <= NEAR).all(axis=-1)
            undecided, candidate = undecided[fits], candidate[fits]
        step[undecided], done[undecided] = candidate, True
    return step, done


def _fitted(blocks: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fits step and lowest value by least squares."""
    low, high = blocks.min(axis=-1), blocks.max(axis=-1)
    best = np.full(len(blocks), np.inf)
    step, start = np.zeros(len(blocks)), low.astype(np.float64)
    for share in _RANGES:
        candidate = (high - low) * share / LARGEST
        first = low + (high - low) * (1 - share) / 2
        for _ in range(2):
            q = _rounded(blocks, candidate, first).astype(np.float32)
            q_mean, w_mean = q.mean(axis=-1), blocks.mean(axis=-1)
            centred = q - q_mean[:, None]
            spread = np.maximum(np.square(centred).sum(axis=-1), 1e-12)
            candidate = (centred * blocks).sum(axis=-1) / spread
            first = w_mean - candidate * q_mean
        q = _rounded(blocks, candidate, first).astype(np.float32)
        error = np.square(blocks - candidate[:, None] * q - first[:, None]).sum(axis=-1)
        better = error < best
        best[better], step[better], start[better] = error[better], candidate[better], first[better]
    return step, start


def _rounded(blocks: Array, step: NDArray[np.floating], low: NDArray[np.floating]) -> NDArray[np.uint8]:
    inverse = np.where(step > 0, 1 / np.where(step > 0, step, 1), 0).astype(np.float32)
    steps = (blocks - low.astype(np.float32)[:, None]) * inverse[:, None]
    return np.clip(np.rint(steps), 0, LARGEST).astype(np.uint8)


def around_zero(values: Array) -> tuple[NDArray[np.uint8], Array]:
    """Returns q and scale [...] of numbers [..., 32] around zero: about scale * (q - 8)."""
    largest = np.abs(values).max(axis=-1)
    scale = np.where(largest > 0, largest / (_MIDDLE - 1), 1).astype(np.float32)
    return (np.rint(values / scale[..., None]) + _MIDDLE).astype(np.uint8), scale


def with_offsets(blocks: Blocks) -> Blocks:
    """Blocks for the input [s, s, x], where s are the sums of x over its blocks, zero-padded to whole blocks of sums.

    A block's offset is the weight of its sum of x. It is stored in 4 bits, and its remainder in 4 bits again, with an error of
    a hundredth of a step. The result's blocks have no offsets.
    """
    sums = np.pad(blocks.offset, ((0, 0), (0, -blocks.offset.shape[1] % BLOCK)))
    sums = sums.reshape(len(sums), -1, BLOCK)
    coarse, scale = around_zero(sums)
    fine, fine_scale = around_zero(sums - scale[..., None] * (coarse.astype(np.float32) - _MIDDLE))
    middle = np.full(scale.shape, _MIDDLE, np.uint8)
    return Blocks(
        np.concatenate([coarse, fine, blocks.q], axis=1),
        np.concatenate([scale, fine_scale, blocks.scale], axis=1),
        np.concatenate([middle, middle, blocks.zero], axis=1),
        np.zeros((len(sums), 2 * sums.shape[1] + blocks.offset.shape[1]), np.float32),
        blocks.kept,
    )


def sums_of_blocks(width: int) -> Blocks:
    """The weight [sums, width] whose product with x is the sums of x over its blocks, for `with_offsets`."""
    blocks = -(-width // BLOCK)
    q = np.zeros((blocks + -blocks % BLOCK, blocks, BLOCK), np.uint8)
    q[np.arange(blocks), np.arange(blocks)] = 1
    return _whole(q)


def identity(width: int) -> Blocks:
    """The identity weight [width, width], whose product is x as the operator rounds it."""
    q = np.zeros((width, width + -width % BLOCK), np.uint8)
    q[np.arange(width), np.arange(width)] = 1
    return _whole(q.reshape(width, -1, BLOCK))


def _whole(q: NDArray[np.uint8]) -> Blocks:
    """Blocks of small integers."""
    none = np.zeros(q.shape[:2], np.uint8)
    return Blocks(q, np.ones(none.shape, np.float32), none, none.astype(np.float32), 1.0)


def nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Packs 4-bit values [..., n] into bytes [..., ceil(n / 2)], the first in the low half."""
    even = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, values.shape[-1] % 2)])
    return (even[..., ::2] + 16 * even[..., 1::2]).astype(np.uint8)


def bytes_of(weight: Array) -> tuple[NDArray[np.uint8], Array]:
    """Rounds a weight [out, in] to 8 bits in blocks of 32, as in GGUF's Q8_0; exact if it came from Q8_0.

    Returns q [out, blocks, 32] and scale [out, blocks]: about scale * (q - 128).
    """
    filled = np.pad(weight, ((0, 0), (0, -weight.shape[1] % BLOCK))).reshape(len(weight), -1, BLOCK)
    largest = np.abs(filled).max(axis=-1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return (np.rint(filled / scale[..., None]) + 128).astype(np.uint8), scale
