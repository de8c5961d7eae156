"""KV caches of the sequences being decoded; their lengths differ. Pure numpy: no thread, no graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptune.engine.onnx_graph import Array
from ptune.formats.seq2seq import Seq2SeqSignature

CELLS = 32  # initial length of a cache; it doubles


class SequenceCaches:
    """Caches of a batch, one row for each sequence. Rows join at the end and leave in any order; the others stay bit for bit."""

    def __init__(self, signature: Seq2SeqSignature) -> None:
        shapes = [
            (layer.kv_heads, 1, dim) for layer in signature.cache for dim in (layer.key_dim, layer.value_dim)
        ]
        self._past_names, self._cross_names = signature.layers("past"), signature.layers("cross")
        self._past = [np.zeros((0, *shape), np.float32) for shape in shapes]
        self._cross = [np.zeros((0, *shape), np.float32) for shape in shapes]
        self.lengths = np.zeros(0, np.int64)  # [rows] tokens of each source
        self.ages = np.zeros(0, np.int64)  # [rows] tokens in each cache

    def __len__(self) -> int:
        return len(self.lengths)

    def inputs(self) -> dict[str, Array]:
        """The decoder's inputs except tokens and adapters."""
        caches = {
            **dict(zip(self._past_names, self._past, strict=True)),
            **dict(zip(self._cross_names, self._cross, strict=True)),
        }
        return {"past_lengths": self.ages, "lengths": self.lengths, **caches}

    def join(self, cross: Sequence[Array], lengths: Array) -> None:
        """Adds rows with empty caches. cross: the encoder's outputs, [rows, heads, source, dim] each."""
        count = len(lengths)
        beside = [_beside(old, new) for old, new in zip(self._cross, cross, strict=True)]
        past = [
            _beside(old, np.zeros((count, old.shape[1], max(old.shape[2], CELLS), old.shape[3]), np.float32))
            for old in self._past
        ]
        self._cross, self._past = beside, past  # all or nothing, should memory run out
        self.lengths = np.concatenate([self.lengths, lengths])
        self.ages = np.concatenate([self.ages, np.zeros(count, np.int64)])

    def append(self, new: Sequence[Array]) -> None:
        """Adds a token to every row: its keys and values, [rows, heads, 1, dim] each."""
        rows = np.arange(len(self))
        if self.ages.max() >= self._past[0].shape[2]:
            self._past = [np.pad(past, ((0, 0), (0, 0), (0, past.shape[2]), (0, 0))) for past in self._past]
        for past, fresh in zip(self._past, new, strict=True):
            past[rows, :, self.ages] = fresh[:, :, 0]
        self.ages = self.ages + 1

    def keep(self, kept: Sequence[int]) -> None:
        """Keeps these rows, in this order, and shortens padding and caches to what they need."""
        rows = np.asarray(kept, np.int64)
        self.lengths, self.ages = self.lengths[rows], self.ages[rows]
        longest, oldest = (int(one.max()) if len(rows) else 1 for one in (self.lengths, self.ages))
        cells = self._past[0].shape[2]
        while cells > CELLS and cells // 2 > oldest:
            cells //= 2
        self._past = [np.ascontiguousarray(one[rows, :, :cells]) for one in self._past]
        self._cross = [np.ascontiguousarray(one[rows, :, :longest]) for one in self._cross]


def _beside(old: Array, new: Array) -> Array:
    """Concatenates [rows, heads, length, dim] twice along the rows, the shorter padded with zeros."""
    length = max(old.shape[2], new.shape[2])
    wide = [np.pad(one, ((0, 0), (0, 0), (0, length - one.shape[2]), (0, 0))) for one in (old, new)]
    return np.concatenate(wide)
