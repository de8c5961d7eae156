"""Weights in blocks of 32 along the input, 4 bits each: w = scale * (q - zero) + offset, with q and zero from 0 to 15.

A block whose values are at most 16 equally spaced numbers is kept as it is: so a source leaves it that was quantised in such
blocks (GGUF's Q4_1: w = d q + m, and Q4_0), whatever file it came from. Other blocks are rounded: of several ranges, the ends cut
off more and more, the one with the least squared error; scale and offset are fitted to the rounded values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BLOCK = 32
LARGEST = 15
# Steps that a block's range may have. Fewer than eight are found as a multiple.
_STEPS = range(LARGEST, LARGEST // 2, -1)
NEAR = 1e-4  # of a step: as far as float32 may put a value from where it belongs
_RANGES = (
    1,
    0.96,
    0.92,
    0.88,
    0.84,
    0.8,
    0.76,
    0.72,
)  # of a block that is rounded: how much of it is not cut off
_ROWS_BYTES = 1 << 26  # of a weight that are worked on at a time
_MIDDLE = 8  # the zero of numbers around zero


@dataclass(frozen=True)
class Blocks:
    """A weight [out, in] in blocks; the last one of each row may be filled up."""

    q: NDArray[np.uint8]  # [out, blocks, 32], 0 to 15
    scale: Array  # [out, blocks]
    zero: NDArray[np.uint8]  # [out, blocks], 0 to 15
    offset: Array  # [out, blocks]
    kept: float  # the share of blocks whose values are the source's own

    def floats(self, width: int) -> Array:
        """What the blocks stand for, [out, width]."""
        steps = self.q.astype(np.float32) - self.zero[..., None]
        found: Array = self.scale[..., None] * steps + self.offset[..., None]
        return found.reshape(len(found), -1)[:, :width]


def blocks_of(weight: Array) -> Blocks:
    """The blocks of a weight [out, in]."""
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
    """q, step, lowest value and whether it is kept, of blocks [n, 32]: w = step * q + low."""
    step, kept = _own_step(blocks)
    low = blocks.min(axis=-1).astype(np.float64)
    others = ~kept
    if others.any():
        step[others], low[others] = _fitted(blocks[others])
    return _rounded(blocks, step, low), step, low, kept


def _own_step(blocks: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The step of which all values of a block are multiples, counted from its lowest, and whether there is one."""
    low = blocks.min(axis=-1)
    span = blocks.max(axis=-1).astype(np.float64) - low
    step, found = np.zeros(len(blocks)), span == 0
    for steps in _STEPS:
        left = np.flatnonzero(~found)
        if not len(left):
            break
        candidate = span[left] / steps
        # A look at the first few values decides for nearly all blocks that this is not their step.
        for columns in (4, BLOCK):
            ratio = (blocks[left, :columns] - low[left, None]) / candidate[:, None].astype(np.float32)
            fits = (np.abs(ratio - np.rint(ratio)) <= NEAR).all(axis=-1)
            left, candidate = left[fits], candidate[fits]
        step[left], found[left] = candidate, True
    return step, found


def _fitted(blocks: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Step and lowest value by least squares."""
    low, high = blocks.min(axis=-1), blocks.max(axis=-1)
    best = np.full(len(blocks), np.inf)
    step, start = np.zeros(len(blocks)), low.astype(np.float64)
    for share in _RANGES:
        one = (high - low) * share / LARGEST
        first = low + (high - low) * (1 - share) / 2
        for _ in range(2):
            q = _rounded(blocks, one, first).astype(np.float32)
            q_mean, w_mean = q.mean(axis=-1), blocks.mean(axis=-1)
            centred = q - q_mean[:, None]
            spread = np.maximum(np.square(centred).sum(axis=-1), 1e-12)
            one = (centred * blocks).sum(axis=-1) / spread
            first = w_mean - one * q_mean
        q = _rounded(blocks, one, first).astype(np.float32)
        error = np.square(blocks - one[:, None] * q - first[:, None]).sum(axis=-1)
        better = error < best
        best[better], step[better], start[better] = error[better], one[better], first[better]
    return step, start


def _rounded(blocks: Array, step: NDArray[np.floating], low: NDArray[np.floating]) -> NDArray[np.uint8]:
    inverse = np.where(step > 0, 1 / np.where(step > 0, step, 1), 0).astype(np.float32)
    steps = (blocks - low.astype(np.float32)[:, None]) * inverse[:, None]
    return np.clip(np.rint(steps), 0, LARGEST).astype(np.uint8)


def around_zero(values: Array) -> tuple[NDArray[np.uint8], Array]:
    """q and scale [...] of numbers [..., 32] that lie around zero: about scale * (q - 8)."""
    largest = np.abs(values).max(axis=-1)
    scale = np.where(largest > 0, largest / (_MIDDLE - 1), 1).astype(np.float32)
    return (np.rint(values / scale[..., None]) + _MIDDLE).astype(np.uint8), scale


def with_offsets(blocks: Blocks) -> Blocks:
    """Blocks for the input [s, s, x], s being the sums of x over its blocks, filled up with zeros to whole blocks of sums.

    The offset of a block is what the sum of x over it counts: a weight like others, in 4 bits, and what those leave in 4 bits
    again. Their error is a hundredth of a step. None of the result's blocks has an offset.
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
    """The weight [sums, width] whose product with x is the sum of x over each of its blocks, as `with_offsets` wants them."""
    blocks = -(-width // BLOCK)
    q = np.zeros((blocks + -blocks % BLOCK, blocks, BLOCK), np.uint8)
    q[np.arange(blocks), np.arange(blocks)] = 1
    return _whole(q)


def identity(width: int) -> Blocks:
    """The weight [width, width] whose product with x is x, rounded as the operator rounds it."""
    q = np.zeros((width, width + -width % BLOCK), np.uint8)
    q[np.arange(width), np.arange(width)] = 1
    return _whole(q.reshape(width, -1, BLOCK))


def _whole(q: NDArray[np.uint8]) -> Blocks:
    """Blocks of small whole numbers."""
    none = np.zeros(q.shape[:2], np.uint8)
    return Blocks(q, np.ones(none.shape, np.float32), none, none.astype(np.float32), 1.0)


def nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[..., n] of 4 bits as [..., ceil(n / 2)] bytes, the first in the low half."""
    even = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, values.shape[-1] % 2)])
    return (even[..., ::2] + 16 * even[..., 1::2]).astype(np.uint8)


def bytes_of(weight: Array) -> tuple[NDArray[np.uint8], Array]:
    """A weight [out, in] in blocks of 32 with 8 bits, as GGUF's Q8_0 has them, and kept as it is where it came from there.

    Returns q [out, blocks, 32] and scale [out, blocks]: about scale * (q - 128).
    """
    filled = np.pad(weight, ((0, 0), (0, -weight.shape[1] % BLOCK))).reshape(len(weight), -1, BLOCK)
    largest = np.abs(filled).max(axis=-1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return (np.rint(filled / scale[..., None]) + 128).astype(np.uint8), scale
