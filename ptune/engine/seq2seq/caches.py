"""The rows that an encoder-decoder is writing, side by side, each of its own age. Pure numpy: no thread, no graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptune.engine.onnx_graph import Array
from ptune.formats.seq2seq import Seq2SeqSignature

CELLS = 32  # of a cache at first; it doubles


class SequenceCaches:
    """Caches and sources of the rows. They join at the end and leave in any order; the others keep theirs bit by bit."""

    def __init__(self, signature: Seq2SeqSignature) -> None:
        shapes = [
            (layer.kv_heads, 1, dim) for layer in signature.cache for dim in (layer.key_dim, layer.value_dim)
        ]
        self._past_names, self._cross_names = signature.layers("past"), signature.layers("cross")
        self._past = [np.zeros((0, *shape), np.float32) for shape in shapes]
        self._cross = [np.zeros((0, *shape), np.float32) for shape in shapes]
        self.lengths = np.zeros(0, np.int64)  # tokens of each source
        self.ages = np.zeros(0, np.int64)  # tokens of each that lie in its cache

    def __len__(self) -> int:
        return len(self.lengths)

    def inputs(self) -> dict[str, Array]:
        """What the writer takes beside tokens and adapters."""
        caches = {
            **dict(zip(self._past_names, self._past, strict=True)),
            **dict(zip(self._cross_names, self._cross, strict=True)),
        }
        return {"past_lengths": self.ages, "lengths": self.lengths, **caches}

    def join(self, cross: Sequence[Array], lengths: Array) -> None:
        """New rows, of which nothing is written yet. cross: as the reader gives it, [rows, heads, source, dim] each."""
        count = len(lengths)
        beside = [_beside(old, new) for old, new in zip(self._cross, cross, strict=True)]
        past = [
            _beside(old, np.zeros((count, old.shape[1], max(old.shape[2], CELLS), old.shape[3]), np.float32))
            for old in self._past
        ]
        self._cross, self._past = beside, past  # all or nothing, where memory is short
        self.lengths = np.concatenate([self.lengths, lengths])
        self.ages = np.concatenate([self.ages, np.zeros(count, np.int64)])

    def wrote(self, new: Sequence[Array]) -> None:
        """One more token of every row: its keys and values, [rows, heads, 1, dim] each."""
        rows = np.arange(len(self))
        if self.ages.max() >= self._past[0].shape[2]:
            self._past = [np.pad(one, ((0, 0), (0, 0), (0, one.shape[2]), (0, 0))) for one in self._past]
        for past, fresh in zip(self._past, new, strict=True):
            past[rows, :, self.ages] = fresh[:, :, 0]
        self.ages = self.ages + 1

    def keep(self, kept: Sequence[int]) -> None:
        """Only these rows stay, in this order; shorter sources need less padding, younger rows fewer cells."""
        rows = np.asarray(kept, np.int64)
        self.lengths, self.ages = self.lengths[rows], self.ages[rows]
        longest, oldest = (int(one.max()) if len(rows) else 1 for one in (self.lengths, self.ages))
        cells = self._past[0].shape[2]
        while cells > CELLS and cells // 2 > oldest:
            cells //= 2
        self._past = [np.ascontiguousarray(one[rows, :, :cells]) for one in self._past]
        self._cross = [np.ascontiguousarray(one[rows, :, :longest]) for one in self._cross]


def _beside(old: Array, new: Array) -> Array:
    """[rows, heads, length, dim] both, one under the other, the shorter padded with zeros."""
    length = max(old.shape[2], new.shape[2])
    wide = [np.pad(one, ((0, 0), (0, 0), (0, length - one.shape[2]), (0, 0))) for one in (old, new)]
    return np.concatenate(wide)
