"""Attention's inputs: a step's flat tokens, sequence by sequence, padded to the longest.

**A sequence's numbers are the same bits whoever shares the step and however its tokens are cut into chunks.** Matrix products
with constant weights compute each row of a matrix alike, however many there are. Products of two inputs do not: onnxruntime
has a kernel of its own for a single row, which rounds differently, and a rounding of 1e-7 grows to 1e-5 in a logit, or to .02
where activations are rounded to integers. So attention computes at least two queries a head and sequence, in either layout:

padded    A token is one query of each head. A single token is computed twice.
grouped   A token is as many queries as heads share keys, so that the keys are packed once for all of them. The graph is a
          separate one (ptune.export.decoder.grouped_attention). All tokens' first queries come first, then their second ones.
          Best for few tokens a sequence.

With an int8 cache onnxruntime computes every query by itself, a single one like many: there a token is one query.

A product sums 128 numbers at once, and more where the result has at most 64 columns. So scores of heads wider than 128 depend on whether a
sequence has more than 64 keys: a shorter one gets further queries, until it has 65 keys.

Values that unused cells write to the cache, beyond a sequence's end, are overwritten before anyone reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.inputs.flat_tokens import FEW, Indices, Tokens
from ptune.engine.onnx_graph import Array
from ptune.formats.signature import Signature

Indices32 = npt.NDArray[np.int32]

SUMMED = 128  # numbers that onnxruntime's products (MLAS) sum at once, unless the result has few columns:
COLUMNS = 64
MASK_CELLS = 1 << 20  # of that layout's mask, at most
UNSEEN = np.float32(-1e30)


@dataclass(frozen=True)
class Heads:
    """Heads of an attention layer."""

    queries: int
    keys: int

    @property
    def group(self) -> int:
        """Query heads for each key head."""
        return self.queries // self.keys


def least_keys(signature: Signature) -> int:
    """Keys that a sequence must have in a step, so that its scores do not depend on how many there are."""
    widest = max((layer.key_dim for layer in signature.cache), default=0)
    return COLUMNS + 1 if widest > SUMMED else 1


def spare_positions(heads: Heads | None, keys: int) -> int:
    """Positions behind a sequence's last token that its further queries may write, in either layout. keys: see `least_keys`."""
    return max(1, keys - 1, 0 if heads is None else (heads.group - 1) * FEW)


class PaddedQueries:
    """Attention's inputs in the padded layout."""

    def __init__(self, tokens: Tokens, capacity: int, least: Indices) -> None:
        """capacity: of a slot, in tokens. least: [chunks] queries of a sequence."""
        self._keys = _Keys(tokens, np.maximum(tokens.size, least))
        unpad = tokens.unpad(self._keys.seq)
        self._fixed = {**self._keys.fixed, "unpad_indices": unpad, "capacity": np.array(capacity, np.int32)}

    def at(self, start: Indices) -> dict[str, Array]:
        """Returns the inputs of a step. start: [chunks] tokens already in the cache."""
        return {**self._fixed, "seqlens_k": self._keys.last(start)}


class PackedGqaQueries:
    """Attention's inputs in the grouped layout."""

    def __init__(self, tokens: Tokens, heads: Heads) -> None:
        self._tokens = tokens
        self._group = heads.group
        self._keys = keys = _Keys(tokens, heads.group * tokens.size)
        owner, cell = tokens.owner[:, None], tokens.cell[:, None]  # beside [tokens, group]
        size = np.repeat(tokens.size, tokens.size)[:, None]
        self._query = query = tokens.column[:, None] + size * np.arange(heads.group)
        keys.fixed["pad_indices"][owner, query] = cell
        index = np.zeros((tokens.batch, keys.seq, 3 * heads.keys), np.int64)
        index[owner, query] = cell[:, :, None] * (heads.queries + 2 * heads.keys) + _lines(heads)
        answers = (owner * keys.seq + query)[:, :, None] * heads.keys + np.arange(heads.keys)
        unpad = np.zeros((tokens.cells, heads.queries), np.int64)  # answers: [tokens, group, keys]
        unpad[tokens.cell] = answers.transpose(0, 2, 1).reshape(len(answers), heads.queries)
        self._fixed = {**keys.fixed, "unpad_indices": unpad, "heads": index}

    def fits(self, start: Indices, room: int) -> bool:
        """Whether this layout is possible and small. room: of a slot, in tokens."""
        size = int(self._tokens.size.max())
        longest = int(start.max()) + self._group * size
        cells = self._tokens.batch * self._group * size * longest
        return size <= FEW and longest <= room and cells <= MASK_CELLS

    def at(self, start: Indices) -> dict[str, Array]:
        """Returns the inputs of a step. start: [chunks] tokens already in the cache."""
        last = self._keys.last(start)
        total = int(last.max()) + 1
        mask = np.zeros((self._tokens.batch, 1, self._keys.seq, total), np.float32)
        unseen = np.where(np.arange(total) > self._tokens.positions(start)[:, None], UNSEEN, np.float32(0))
        mask[self._tokens.owner[:, None], 0, self._query] = unseen[:, None]
        return {**self._fixed, "seqlens_k": last, "capacity": np.array(total, np.int32), "mask": mask}


def _lines(heads: Heads) -> Indices:
    """Indices [group, 3 * keys] among a token's heads: of each group's queries, then of the keys and the values."""
    key = np.arange(heads.keys)
    query = key * heads.group + np.arange(heads.group)[:, None]
    beside = np.broadcast_to(heads.queries + np.arange(2 * heads.keys), (heads.group, 2 * heads.keys))
    return np.concatenate([query, beside], axis=1)


class _Keys:
    """Shared by both layouts: the padded position of each token; unused cells repeat the chunk's first token."""

    def __init__(self, tokens: Tokens, queries: Indices) -> None:
        """queries: [chunks] number of each chunk's queries."""
        self._tokens, self._queries = tokens, queries
        self.seq = int(queries.max())
        query_seqlens = np.zeros(tokens.batch, np.int32)
        query_seqlens[tokens.batch_index] = queries
        self.fixed: dict[str, Array] = {"pad_indices": tokens.pad(self.seq), "query_seqlens": query_seqlens}

    def last(self, start: Indices) -> Indices32:
        """Returns the last cache position that each sequence's queries take [batch]."""
        last = np.zeros(self._tokens.batch, np.int32)
        last[self._tokens.batch_index] = start + self._queries - 1
        return last
