"""One step: chunks of rows -> flat arrays -> the graph -> logits. The layout is formats/signature.py's.

**A row's numbers are the same bits whoever shares the step and however its tokens are cut into chunks.** Matrix products with
constant weights compute each row of a matrix alike, however many there are. Products of two inputs do not: onnxruntime has
a kernel of its own for a single row, which rounds otherwise, and a rounding of 1e-7 grows to 1e-5 in a logit, or to .02 where
activations are rounded to integers. So nothing here is ever one row: attention computes at least two queries of a sequence
(the second is the first again; what it leaves in the cache, beyond the sequence's end, is overwritten before anybody reads
it), and a step has at least two flat tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.factors import Stack, Stacks
from ptune.engine.kv_cache import KvCache
from ptune.engine.scheduler import Chunk
from ptune.engine.session import Array, Session
from ptune.formats.signature import Signature

Logits = npt.NDArray[np.float32]
LEAST = 2  # queries of a sequence in attention, and flat tokens of a step


class Step:
    """Computes chunks of different rows, lengths and adapters in one run of the graph."""

    def __init__(
        self, session: Session, signature: Signature, cache: KvCache, bare: Session | None = None
    ) -> None:
        """bare: a graph without sockets, for steps without an adapter."""
        self._session = session
        self._bare = bare
        self._signature = signature
        self._cache = cache
        self._stacks = Stacks(signature)

    def __call__(self, chunks: Sequence[Chunk]) -> list[Logits]:
        """Computes at least one chunk; the rows' caches grow by it.

        Returns for each chunk the logits of its wanted columns, [wanted, vocab]; they may be none.
        """
        slots = _slots(chunks)
        low, high = int(slots.min()), int(slots.max()) + 1
        window = self._cache.window(low, high)
        stack = self._stacks.of({chunk.row.adapter for chunk in chunks if chunk.row.adapter is not None})
        inputs = step_inputs(chunks, stack, self._cache.lengths[low:high], low, self._cache.allocated)
        logits = np.empty((1, inputs["wanted"].size, self._signature.vocab_size), np.float32)
        presents = dict(zip(self._signature.present_names(), window.values(), strict=True))
        outputs = {"logits": logits, **presents}
        if self._bare is not None and not stack.rank:
            self._bare.run({**inputs, **window}, outputs)
        else:
            self._session.run({**inputs, **window, **stack.inputs}, outputs)
        self._cache.lengths[slots] = [chunk.start + chunk.count for chunk in chunks]
        ends = np.cumsum([len(chunk.wanted) for chunk in chunks])
        return np.split(logits[0], ends)[:-1]


def step_inputs(
    chunks: Sequence[Chunk], stack: Stack, lengths: npt.NDArray[np.int32], low: int, capacity: int
) -> dict[str, Array]:
    """The graph's STEP_INPUTS, all tokens on one row.

    lengths: tokens in the cache of each slot from `low` on, [batch]; slots without a chunk are idle.
    """
    counts = np.array([len(chunk) for chunk in chunks])
    batch_row = _slots(chunks) - low
    first = np.cumsum(counts) - counts  # flat index of each chunk's first token
    owner = np.repeat(batch_row, counts)  # [tokens]
    column = np.arange(counts.sum()) - np.repeat(first, counts)  # [tokens]
    starts = np.array([chunk.start for chunk in chunks])
    queries = np.maximum(counts, LEAST)  # of each chunk in attention
    seq = int(queries.max())
    pad = np.zeros((len(lengths), seq), np.int64)
    pad[batch_row, :LEAST] = first[:, None]
    pad[owner, column] = np.arange(len(owner))
    query_seqlens = np.zeros(len(lengths), np.int32)
    query_seqlens[batch_row] = queries
    total = lengths.copy()
    total[batch_row] = starts + queries
    wanted = [
        at + column for at, chunk in zip(first.tolist(), chunks, strict=True) for column in chunk.wanted
    ]
    inputs = {
        "input_ids": np.array([[token for chunk in chunks for token in chunk.tokens]], np.int64),
        "position_ids": (np.repeat(starts, counts) + column)[None],
        "pad": pad,
        "unpad": owner * seq + column,
        "seqlens_k": np.maximum(total, 1) - np.int32(1),
        "query_seqlens": query_seqlens,
        "capacity": np.array(capacity, np.int32),
        "wanted": np.array(wanted or [0], np.int64),  # the graph wants at least one
        "choice": _choice(chunks, first, stack),
    }
    if len(owner) < LEAST:
        for name in ("input_ids", "position_ids", "unpad", "choice"):
            inputs[name] = np.repeat(inputs[name], LEAST, axis=min(inputs[name].ndim - 1, 1))
    return inputs


def _choice(chunks: Sequence[Chunk], first: npt.NDArray[np.int64], stack: Stack) -> npt.NDArray[np.float32]:
    """[1, tokens, R]: 1 where a token uses a column of the stack."""
    choice = np.zeros((1, sum(map(len, chunks)), stack.rank), np.float32)
    for at, chunk in zip(first, chunks, strict=True):
        if chunk.row.adapter is not None:
            choice[0, at : at + len(chunk), stack.columns[chunk.row.adapter]] = 1
    return choice


def _slots(chunks: Sequence[Chunk]) -> npt.NDArray[np.int64]:
    return np.array([chunk.row.slot for chunk in chunks], np.int64)
