"""One step: chunks of rows -> flat arrays -> the graph -> logits. The layout is formats/signature.py's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.graphs import Graphs
from ptune.engine.kv_cache import KvCache
from ptune.engine.layout import Indices, divide, flat_indices
from ptune.engine.places import Places, Window
from ptune.engine.scheduler import Chunk
from ptune.engine.session import Array
from ptune.engine.views import Tokens, fits_grouped, grouped, padded, that_fit
from ptune.formats.signature import Signature

Logits = npt.NDArray[np.float32]


class Step:
    """Computes chunks of different rows, lengths and adapters."""

    def __init__(self, graphs: Graphs, signature: Signature, cache: KvCache) -> None:
        self.graphs = graphs
        self._heads = graphs.heads
        self._signature = signature
        self._cache = cache
        self._places = Places(signature, cache.slots)
        self._rooms: list[Logits] = []

    def __call__(self, chunks: Sequence[Chunk]) -> list[Logits]:
        """Computes at least one chunk, in as few runs of the graph as is sensible; the rows' caches grow by it.

        Returns for each chunk the logits of its wanted columns, [wanted, vocab]; they may be none. They are good until the
        next step.
        """
        found: dict[Chunk, Logits] = {}
        parts = [part for run in divide(chunks) for part in that_fit(run, self._cache.allocated)]
        for at, part in enumerate(parts):
            found |= zip(part, self._run(part, at), strict=True)
        return [found[chunk] for chunk in chunks]

    def _run(self, chunks: Sequence[Chunk], at: int) -> list[Logits]:
        """One run of the graph, the step's at-th."""
        slots = [chunk.row.slot for chunk in chunks if chunk.row.slot is not None]
        low, high = min(slots), max(slots) + 1
        caches = self._cache.window(low, high)
        window = self._places.of({chunk.row.adapter for chunk in chunks if chunk.row.adapter is not None})
        flat, width = flat_indices(chunks, window, self.graphs.least_tokens)
        tokens = Tokens.of(chunks, flat, window.count * width, range(low, high))
        room = self._cache.allocated
        heads = self._heads if self._heads is not None and fits_grouped(tokens, self._heads, room) else None
        view = padded(tokens, room) if heads is None else grouped(tokens, heads)
        inputs = {**token_inputs(chunks, flat, tokens, window), **view}
        wanted = inputs["wanted"]
        logits = self._room_for(at, (window.count, len(wanted), self._signature.vocab_size))
        session = self.graphs.of(sockets=window.rank > 0, grouped=heads is not None)
        session.run(inputs, caches, window.inputs, logits)
        asked = [indices[chunk.wanted.start :] for chunk, indices in zip(chunks, flat, strict=True)]
        return [logits_at(logits, cells // width, np.searchsorted(wanted, cells % width)) for cells in asked]

    def _room_for(self, at: int, shape: tuple[int, int, int]) -> Logits:
        """Memory for a run's logits, the same in every step: new pages would take longer to get than to fill."""
        size = math.prod(shape)
        while len(self._rooms) <= at:
            self._rooms.append(np.empty(0, np.float32))
        if len(self._rooms[at]) < size:
            self._rooms[at] = np.empty(size, np.float32)
        return self._rooms[at][:size].reshape(shape)


def logits_at(logits: Logits, groups: Indices, columns: Indices) -> Logits:
    """[n, vocab] of [G, wanted, vocab]. Without a copy where the cells lie in one group, side by side, as most do."""
    if len(groups) and groups[0] == groups[-1]:
        return logits[groups[0], columns[0] : columns[-1] + 1]
    return logits[groups, columns]


def token_inputs(
    chunks: Sequence[Chunk], flat: Sequence[Indices], tokens: Tokens, window: Window
) -> dict[str, Array]:
    """The graph's inputs that say which tokens are computed, under which adapters, and whose logits are wanted.

    flat: where each chunk's tokens lie among [G * m]; cells without one hold token 0, whose output nobody reads.
    """
    ids, positions = np.zeros((2, tokens.cells), np.int64)
    ids[tokens.cell] = [token for chunk in chunks for token in chunk.tokens]
    positions[tokens.cell] = tokens.position
    choice = np.zeros((tokens.cells, window.rank), np.float32)
    for chunk, indices in zip(chunks, flat, strict=True):
        choice[indices] = chunk.row.adapter is not None
    asked = [indices[chunk.wanted.start :] for chunk, indices in zip(chunks, flat, strict=True)]
    shape = (window.count, tokens.cells // window.count)
    return {
        "input_ids": ids.reshape(shape),
        "position_ids": positions.reshape(shape),
        "wanted": np.unique(np.concatenate([[], *asked]).astype(np.int64) % shape[1])
        if any(map(len, asked))
        else np.zeros(1, np.int64),  # the graph wants at least one
        "choice": choice.reshape(*shape, window.rank),
    }
