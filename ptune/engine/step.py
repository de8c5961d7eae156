"""One step: chunks of rows -> flat arrays -> the graph -> logits. The layout is formats/signature.py's.

**A row's numbers are the same bits whoever shares the step and however its tokens are cut into chunks.** Matrix products with
constant weights compute each row of a matrix alike, however many there are. Products of two inputs do not: onnxruntime has
a kernel of its own for a single row, which rounds otherwise, and a rounding of 1e-7 grows to 1e-5 in a logit, or to .02 where
activations are rounded to integers. So attention computes at least two queries of a sequence: the second is the first again;
what it leaves in the cache, beyond the sequence's end, is overwritten before anybody reads it. What an adapter adds may round
otherwise where its tokens are one or several; the base's numbers do not touch that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.kv_cache import KvCache
from ptune.engine.layout import Indices, divide, flat_indices
from ptune.engine.places import Places, Window
from ptune.engine.scheduler import Chunk
from ptune.engine.session import Array, Session
from ptune.formats.signature import Signature

Logits = npt.NDArray[np.float32]
LEAST = 2  # queries of a sequence in attention


class Step:
    """Computes chunks of different rows, lengths and adapters."""

    def __init__(
        self, session: Session, signature: Signature, cache: KvCache, bare: Session | None = None
    ) -> None:
        """bare: a graph without sockets, for steps without an adapter."""
        self._session = session
        self._bare = bare
        self._signature = signature
        self._cache = cache
        self._places = Places(signature, cache.slots)

    def __call__(self, chunks: Sequence[Chunk]) -> list[Logits]:
        """Computes at least one chunk, in as few runs of the graph as is sensible; the rows' caches grow by it.

        Returns for each chunk the logits of its wanted columns, [wanted, vocab]; they may be none.
        """
        found: dict[Chunk, Logits] = {}
        for together in divide(chunks):
            found |= zip(together, self._run(together), strict=True)
        return [found[chunk] for chunk in chunks]

    def _run(self, chunks: Sequence[Chunk]) -> list[Logits]:
        """One run of the graph."""
        slots = _slots(chunks)
        low, high = int(slots.min()), int(slots.max()) + 1
        caches = self._cache.window(low, high)
        window = self._places.of({chunk.row.adapter for chunk in chunks if chunk.row.adapter is not None})
        flat, width = flat_indices(chunks, window)
        lengths = self._cache.lengths[low:high]
        inputs = step_inputs(chunks, flat, width, window, lengths, low, self._cache.allocated)
        wanted = inputs["wanted"]
        logits = np.empty((window.count, len(wanted), self._signature.vocab_size), np.float32)
        presents = dict(zip(self._signature.present_names(), caches.values(), strict=True))
        outputs = {"logits": logits, **presents}
        if self._bare is not None and not window.rank:
            self._bare.run({**inputs, **caches}, outputs)
        else:
            self._session.run({**inputs, **caches, **window.inputs}, outputs)
        self._cache.lengths[slots] = [chunk.start + chunk.count for chunk in chunks]
        asked = [indices[chunk.wanted.start :] for chunk, indices in zip(chunks, flat, strict=True)]
        return [logits[cells // width, np.searchsorted(wanted, cells % width)] for cells in asked]


def step_inputs(
    chunks: Sequence[Chunk],
    flat: Sequence[Indices],
    width: int,
    window: Window,
    lengths: npt.NDArray[np.int32],
    low: int,
    capacity: int,
) -> dict[str, Array]:
    """The graph's STEP_INPUTS.

    flat: where each chunk's tokens lie among [G * width]; cells without one hold token 0, whose output nobody reads.
    lengths: tokens in the cache of each slot from `low` on, [batch]; slots without a chunk are idle.
    """
    counts = np.array([len(chunk) for chunk in chunks])
    batch_row = _slots(chunks) - low
    owner = np.repeat(batch_row, counts)  # [tokens]
    column = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # [tokens]
    starts = np.array([chunk.start for chunk in chunks])
    queries = np.maximum(counts, LEAST)  # of each chunk in attention
    seq = int(queries.max())
    cells = np.concatenate(flat)  # [tokens]
    pad = np.zeros((len(lengths), seq), np.int64)
    pad[batch_row, :LEAST] = np.array([indices[0] for indices in flat])[:, None]
    pad[owner, column] = cells
    query_seqlens = np.zeros(len(lengths), np.int32)
    query_seqlens[batch_row] = queries
    total = lengths.copy()
    total[batch_row] = starts + queries
    ids, positions, unpad = np.zeros((3, window.count * width), np.int64)
    ids[cells] = [token for chunk in chunks for token in chunk.tokens]
    positions[cells] = np.repeat(starts, counts) + column
    unpad[cells] = owner * seq + column
    choice = np.zeros((window.count * width, window.rank), np.float32)
    for chunk, indices in zip(chunks, flat, strict=True):
        choice[indices] = chunk.row.adapter is not None
    asked = [indices[chunk.wanted.start :] for chunk, indices in zip(chunks, flat, strict=True)]
    shape = (window.count, width)
    return {
        "input_ids": ids.reshape(shape),
        "position_ids": positions.reshape(shape),
        "pad": pad,
        "unpad": unpad,
        "seqlens_k": np.maximum(total, 1) - np.int32(1),
        "query_seqlens": query_seqlens,
        "capacity": np.array(capacity, np.int32),
        "wanted": np.unique(np.concatenate([[], *asked]).astype(np.int64) % width)
        if any(map(len, asked))
        else np.zeros(1, np.int64),  # the graph wants at least one
        "choice": choice.reshape(*shape, window.rank),
    }


def _slots(chunks: Sequence[Chunk]) -> npt.NDArray[np.int64]:
    return np.array([chunk.row.slot for chunk in chunks], np.int64)
