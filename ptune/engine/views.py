"""How attention sees a step's flat tokens: sequence by sequence, padded to the longest.

**A row's numbers are the same bits whoever shares the step and however its tokens are cut into chunks.** Matrix products with
constant weights compute each row of a matrix alike, however many there are. Products of two inputs do not: onnxruntime has
a kernel of its own for a single row, which rounds otherwise, and a rounding of 1e-7 grows to 1e-5 in a logit, or to .02 where
activations are rounded to integers. So attention computes at least two queries a head and sequence, in either view:

padded    a token is a query of each head. A token that is alone is computed twice.
grouped   a token is as many queries as heads share keys, which are so packed once for all of them; the graph is one of its
          own (ptune.export.grouped). First all tokens' first queries, then their second. Best for few tokens a sequence.

What a view's further cells leave in the cache, beyond a sequence's end, is overwritten before anybody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptune.engine.layout import Indices
from ptune.engine.scheduler import Chunk
from ptune.engine.session import Array

LEAST = 2  # queries of a head in a sequence
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


@dataclass(frozen=True)
class Tokens:
    """Where a step's tokens lie: in which flat cell, and in which place of which sequence of the batch."""

    cells: int  # flat cells, with or without a token
    cell: Indices  # [tokens]
    owner: Indices  # [tokens] its sequence
    column: Indices  # [tokens] its place in its chunk
    first: Indices  # [chunks] cell of the chunk's first token
    row: Indices  # [chunks] the chunk's sequence
    start: Indices  # [chunks] tokens of it in the cache
    size: Indices  # [chunks] tokens in the chunk
    batch: int  # sequences; those without a chunk are idle

    @classmethod
    def of(cls, chunks: Sequence[Chunk], flat: Sequence[Indices], cells: int, slots: range) -> Tokens:
        """flat: the cells of each chunk. slots: the batch."""
        size = np.array([len(chunk) for chunk in chunks])
        row = np.array([chunk.row.slot for chunk in chunks], np.int64) - slots.start
        return cls(
            cells,
            np.concatenate(flat),
            np.repeat(row, size),
            np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size),
            np.array([indices[0] for indices in flat]),
            row,
            np.array([chunk.start for chunk in chunks]),
            size,
            len(slots),
        )

    @property
    def position(self) -> Indices:
        """[tokens] the place of each in its sequence."""
        return np.repeat(self.start, self.size) + self.column


def padded(tokens: Tokens, capacity: int) -> dict[str, Array]:
    """The inputs of attention where a token is one query. capacity: of a slot, in tokens."""
    queries = np.maximum(tokens.size, LEAST)
    unpad = np.zeros(tokens.cells, np.int64)
    unpad[tokens.cell] = tokens.owner * int(queries.max()) + tokens.column
    return {**_keys(tokens, queries), "unpad": unpad, "capacity": np.array(capacity, np.int32)}


def grouped(tokens: Tokens, heads: Heads) -> dict[str, Array]:
    """The inputs of attention where a token is `heads.group` queries."""
    queries = heads.group * tokens.size
    view = _keys(tokens, queries)
    batch, seq = view["pad"].shape
    total = int(view["seqlens_k"].max()) + 1
    owner, cell = tokens.owner[:, None], tokens.cell[:, None]  # beside [tokens, group]
    size = np.zeros(batch, np.int64)
    size[tokens.row] = tokens.size
    place = tokens.column[:, None] + size[owner] * np.arange(heads.group)
    view["pad"][owner, place] = cell
    index = np.zeros((batch, seq, 3 * heads.keys), np.int64)
    index[owner, place] = cell[:, :, None] * (heads.queries + 2 * heads.keys) + _lines(heads)
    answers = (owner * seq + place)[:, :, None] * heads.keys + np.arange(heads.keys)  # [tokens, group, keys]
    unpad = np.zeros((tokens.cells, heads.queries), np.int64)
    unpad[tokens.cell] = answers.transpose(0, 2, 1).reshape(len(answers), heads.queries)
    mask = np.zeros((batch, 1, seq, total), np.float32)
    unseen = np.where(np.arange(total) > tokens.position[:, None], UNSEEN, np.float32(0))
    mask[owner, 0, place] = unseen[:, None]
    return {**view, "unpad": unpad, "capacity": np.array(total, np.int32), "heads": index, "mask": mask}


def _lines(heads: Heads) -> Indices:
    """[group, 3 * keys] where a token's queries of a place stand, the keys beside them, and the values, among its heads."""
    key = np.arange(heads.keys)
    query = key * heads.group + np.arange(heads.group)[:, None]
    beside = np.broadcast_to(heads.queries + np.arange(2 * heads.keys), (heads.group, 2 * heads.keys))
    return np.concatenate([query, beside], axis=1)


def fits_grouped(tokens: Tokens, heads: Heads, room: int) -> bool:
    """Whether the grouped view is possible and small. room: of a slot, in tokens."""
    size = int(tokens.size.max())
    longest = int(tokens.start.max()) + heads.group * size
    cells = tokens.batch * heads.group * size * longest
    return size <= FEW and longest <= room and cells <= MASK_CELLS


def that_fit(chunks: Sequence[Chunk], room: int) -> list[Sequence[Chunk]]:
    """In as few parts as is needed: the longest chunk must fit behind each of a part. room: of a slot, in tokens.

    onnxruntime asks for that, though it writes no more than a sequence's own tokens.
    """
    seq = max(LEAST, *map(len, chunks))
    tight = [chunk for chunk in chunks if chunk.start + seq > room]
    if not tight or len(chunks) == 1:
        return [chunks]
    roomy = [chunk for chunk in chunks if chunk.start + seq <= room]
    return [*that_fit(roomy, room), *that_fit(tight, room)]


def _keys(tokens: Tokens, queries: Indices) -> dict[str, Array]:
    """What holds in both views: which tokens' keys stand where; cells beyond a chunk's tokens hold its first one."""
    pad = np.zeros((tokens.batch, int(queries.max())), np.int64)
    pad[tokens.row] = tokens.first[:, None]
    pad[tokens.owner, tokens.column] = tokens.cell
    query_seqlens = np.zeros(tokens.batch, np.int32)
    query_seqlens[tokens.row] = queries
    total = np.ones(tokens.batch, np.int32)
    total[tokens.row] = tokens.start + queries
    return {
        "pad": pad,
        "seqlens_k": total - np.int32(1),
        "query_seqlens": query_seqlens,
    }
