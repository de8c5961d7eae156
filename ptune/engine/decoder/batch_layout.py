"""Where a step's tokens lie, and those of its inputs that follow from that alone.

While the same rows generate, token after token, these stay as they are: they are computed once (`BatchLayoutCache`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ptune.engine.decoder.attention_metadata import Heads, PackedGqaQueries, PaddedQueries
from ptune.engine.decoder.flat_tokens import Tokens, flat_indices
from ptune.engine.decoder.lora_slots import Window
from ptune.engine.decoder.sequence import Chunk
from ptune.engine.onnx_graph import Array


class BatchLayout:
    """Of chunks, in a window of adapters' places. Chunks of the same lengths, rows and wanted columns may take their place."""

    def __init__(
        self, chunks: Sequence[Chunk], window: Window, least: int, heads: Heads | None, room: int
    ) -> None:
        """least: cells that a step must have. heads: of attention, where there is a grouped view. room: of a slot, in tokens."""
        slots = [chunk.row.slot for chunk in chunks if chunk.row.slot is not None]
        self.slots = range(min(slots), max(slots) + 1)
        flat, width = flat_indices(chunks, window, least)
        self.tokens = Tokens.of(chunks, flat, window.count * width, self.slots)
        self._shape = (window.count, width)
        self._heads, self._room = heads, room
        asked = [indices[chunk.wanted.start :] for chunk, indices in zip(chunks, flat, strict=True)]
        wanted = np.unique(np.concatenate([[], *asked]).astype(np.int64) % width)
        self.wanted = wanted if len(wanted) else np.zeros(1, np.int64)  # the graph wants at least one
        self.answers = [(cells // width, np.searchsorted(self.wanted, cells % width)) for cells in asked]
        lora_mask = np.zeros((self.tokens.cells, window.rank), np.float32)
        for chunk, indices in zip(chunks, flat, strict=True):
            lora_mask[indices] = chunk.row.adapter is not None
        self._lora_mask = lora_mask.reshape(*self._shape, window.rank)

    def inputs(self, chunks: Sequence[Chunk]) -> tuple[dict[str, Array], bool]:
        """The graph's inputs but caches and factors, and whether attention's are of the grouped view.

        Cells without a token hold token 0, whose output nobody reads.
        """
        start = np.array([chunk.start for chunk in chunks])
        ids, positions = np.zeros((2, self.tokens.cells), np.int64)
        ids[self.tokens.cell] = [token for chunk in chunks for token in chunk.tokens]
        positions[self.tokens.cell] = self.tokens.positions(start)
        found: dict[str, Array] = {
            "input_ids": ids.reshape(self._shape),
            "position_ids": positions.reshape(self._shape),
            "logits_indices": self.wanted,
            "lora_mask": self._lora_mask,
        }
        if self._grouped is not None and self._grouped.fits(start, self._room):
            return {**found, **self._grouped.at(start)}, True
        return {**found, **self._padded.at(start)}, False

    @cached_property
    def _grouped(self) -> PackedGqaQueries | None:
        return None if self._heads is None else PackedGqaQueries(self.tokens, self._heads)

    @cached_property
    def _padded(self) -> PaddedQueries:
        return PaddedQueries(self.tokens, self._room)


class BatchLayoutCache:
    """The last arrangement of each of a step's runs, which mostly is the next one's."""

    def __init__(self, least: int, heads: Heads | None, room: int) -> None:
        self._options = least, heads, room
        self._last: dict[int, tuple[object, Window, BatchLayout]] = {}

    def of(self, chunks: Sequence[Chunk], window: Window, run: int) -> BatchLayout:
        # A window knows its adapters weakly; one that is gone is in no window, so its number means nothing here.
        key = [(chunk.row.slot, len(chunk), chunk.wanted.start, id(chunk.row.adapter)) for chunk in chunks]
        last = self._last.get(run)
        if last is None or last[0] != key or last[1] is not window:
            last = self._last[run] = key, window, BatchLayout(chunks, window, *self._options)
        return last[2]
