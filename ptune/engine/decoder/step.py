"""One step: chunks of rows -> flat arrays -> the graph -> logits. The layout is formats/signature.py's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.batch_layout import BatchLayoutCache
from ptune.engine.decoder.flat_tokens import Indices, divide, split_to_fit
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.kv_cache import KvCache
from ptune.engine.decoder.lora_slots import LoraSlots
from ptune.engine.decoder.sequence import Chunk
from ptune.formats.signature import Signature

Logits = npt.NDArray[np.float32]


class Step:
    """Computes chunks of different rows, lengths and adapters."""

    def __init__(self, graphs: Graphs, signature: Signature, cache: KvCache) -> None:
        self.graphs = graphs
        self._cache = cache
        self._vocab = signature.vocab_size
        self._places = LoraSlots(signature, cache.slots)
        self._arrangements = BatchLayoutCache(graphs.least_tokens, graphs.heads, cache.allocated)
        self._rooms: dict[int, Logits] = {}

    def __call__(self, chunks: Sequence[Chunk]) -> list[Logits]:
        """Computes at least one chunk, in as few runs of the graph as is sensible; the rows' caches grow by it.

        Returns for each chunk the logits of its wanted columns, [wanted, vocab]; they may be none. They are good until the
        next step.
        """
        found: dict[Chunk, Logits] = {}
        parts = [part for run in divide(chunks) for part in split_to_fit(run, self._cache.allocated)]
        for at, part in enumerate(parts):
            found |= zip(part, self._run(part, at), strict=True)
        return [found[chunk] for chunk in chunks]

    def _run(self, chunks: Sequence[Chunk], at: int) -> list[Logits]:
        """One run of the graph, the step's at-th."""
        window = self._places.of({chunk.row.adapter for chunk in chunks if chunk.row.adapter is not None})
        arranged = self._arrangements.of(chunks, window, at)
        inputs, grouped = arranged.inputs(chunks)
        caches = self._cache.window(arranged.slots.start, arranged.slots.stop)
        logits = self._room_for(at, (window.count, len(arranged.wanted), self._vocab))
        session = self.graphs.of(sockets=window.rank > 0, grouped=grouped)
        session.run(inputs, caches, window.inputs, logits)
        return [logits_at(logits, *cells) for cells in arranged.answers]

    def _room_for(self, at: int, shape: tuple[int, int, int]) -> Logits:
        """Memory for a run's logits, the same in every step: new pages would take longer to get than to fill."""
        size, room = math.prod(shape), self._rooms.get(at)
        if room is None or len(room) < size:
            room = self._rooms[at] = np.empty(size, np.float32)
        return room[:size].reshape(shape)


def logits_at(logits: Logits, groups: Indices, columns: Indices) -> Logits:
    """[n, vocab] of [G, wanted, vocab]. Without a copy where the cells lie in one group, side by side, as most do."""
    if len(groups) and groups[0] == groups[-1]:
        return logits[groups[0], columns[0] : columns[-1] + 1]
    return logits[groups, columns]
