"""How attention sees a step's flat tokens: sequence by sequence, padded to the longest.

**A row's numbers are the same bits whoever shares the step and however its tokens are cut into chunks.** Matrix products with
constant weights compute each row of a matrix alike, however many there are. Products of two inputs do not: onnxruntime has
a kernel of its own for a single row, which rounds otherwise, and a rounding of 1e-7 grows to 1e-5 in a logit, or to .02 where
activations are rounded to integers. So attention computes at least two queries a head and sequence, in either view:

padded    a token is a query of each head. A token that is alone is computed twice.
grouped   a token is as many queries as heads share keys, which are so packed once for all of them; the graph is one of its
          own (ptune.export.grouped_attention). First all tokens' first queries, then their second. Best for few tokens a sequence.

What a view's further cells leave in the cache, beyond a sequence's end, is overwritten before anybody reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.flat_tokens import LEAST, Indices, Tokens
from ptune.engine.onnx_graph import Array

Indices32 = npt.NDArray[np.int32]

FEW = 8  # tokens of a sequence that are computed in the grouped view at most
MASK_CELLS = 1 << 20  # of that view's mask at most
UNSEEN = np.float32(-1e30)


@dataclass(frozen=True)
class Heads:
    """Of an attention layer."""

    queries: int
    keys: int

    @property
    def group(self) -> int:
        """Heads that share keys."""
        return self.queries // self.keys


class PaddedQueries:
    """Attention's inputs where a token is one query."""

    def __init__(self, tokens: Tokens, capacity: int) -> None:
        """capacity: of a slot, in tokens."""
        self._keys = _Keys(tokens, np.maximum(tokens.size, LEAST))
        unpad = np.zeros(tokens.cells, np.int64)
        unpad[tokens.cell] = tokens.owner * self._keys.seq + tokens.column
        self._fixed = {**self._keys.fixed, "unpad_indices": unpad, "capacity": np.array(capacity, np.int32)}

    def at(self, start: Indices) -> dict[str, Array]:
        """start: [chunks] tokens in the cache."""
        return {**self._fixed, "seqlens_k": self._keys.last(start)}


class PackedGqaQueries:
    """Attention's inputs where a token is as many queries as heads share keys."""

    def __init__(self, tokens: Tokens, heads: Heads) -> None:
        self._tokens = tokens
        self._group = heads.group
        self._keys = keys = _Keys(tokens, heads.group * tokens.size)
        owner, cell = tokens.owner[:, None], tokens.cell[:, None]  # beside [tokens, group]
        size = np.repeat(tokens.size, tokens.size)[:, None]
        self._place = place = tokens.column[:, None] + size * np.arange(heads.group)
        keys.fixed["pad_indices"][owner, place] = cell
        index = np.zeros((tokens.batch, keys.seq, 3 * heads.keys), np.int64)
        index[owner, place] = cell[:, :, None] * (heads.queries + 2 * heads.keys) + _lines(heads)
        answers = (owner * keys.seq + place)[:, :, None] * heads.keys + np.arange(heads.keys)
        unpad = np.zeros((tokens.cells, heads.queries), np.int64)  # answers: [tokens, group, keys]
        unpad[tokens.cell] = answers.transpose(0, 2, 1).reshape(len(answers), heads.queries)
        self._fixed = {**keys.fixed, "unpad_indices": unpad, "heads": index}

    def fits(self, start: Indices, room: int) -> bool:
        """Whether this view is possible and small. room: of a slot, in tokens."""
        size = int(self._tokens.size.max())
        longest = int(start.max()) + self._group * size
        cells = self._tokens.batch * self._group * size * longest
        return size <= FEW and longest <= room and cells <= MASK_CELLS

    def at(self, start: Indices) -> dict[str, Array]:
        """start: [chunks] tokens in the cache."""
        last = self._keys.last(start)
        total = int(last.max()) + 1
        mask = np.zeros((self._tokens.batch, 1, self._keys.seq, total), np.float32)
        unseen = np.where(np.arange(total) > self._tokens.positions(start)[:, None], UNSEEN, np.float32(0))
        mask[self._tokens.owner[:, None], 0, self._place] = unseen[:, None]
        return {**self._fixed, "seqlens_k": last, "capacity": np.array(total, np.int32), "mask": mask}


def _lines(heads: Heads) -> Indices:
    """[group, 3 * keys] where a token's queries of a place stand, the keys beside them, and the values, among its heads."""
    key = np.arange(heads.keys)
    query = key * heads.group + np.arange(heads.group)[:, None]
    beside = np.broadcast_to(heads.queries + np.arange(2 * heads.keys), (heads.group, 2 * heads.keys))
    return np.concatenate([query, beside], axis=1)


class _Keys:
    """What holds in both views: which tokens' keys stand where; cells beyond a chunk's tokens hold its first one."""

    def __init__(self, tokens: Tokens, queries: Indices) -> None:
        """queries: [chunks]."""
        self._tokens, self._queries = tokens, queries
        self.seq = int(queries.max())
        pad = np.zeros((tokens.batch, self.seq), np.int64)
        pad[tokens.row] = tokens.first[:, None]
        pad[tokens.owner, tokens.column] = tokens.cell
        query_seqlens = np.zeros(tokens.batch, np.int32)
        query_seqlens[tokens.row] = queries
        self.fixed: dict[str, Array] = {"pad_indices": pad, "query_seqlens": query_seqlens}

    def last(self, start: Indices) -> Indices32:
        """[batch] the last place that a sequence's queries take."""
        last = np.zeros(self._tokens.batch, np.int32)
        last[self._tokens.row] = start + self._queries - 1
        return last
