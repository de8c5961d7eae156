"""Layout of a step's tokens, and the graph inputs that follow from it alone.

While the same sequences generate, token after token, the layout stays the same: it is computed once (`BatchLayoutCache`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ptune.engine.decoder.inputs.attention_metadata import Heads, PackedGqaQueries, PaddedQueries
from ptune.engine.decoder.inputs.flat_tokens import Indices, Tokens, flat_indices, keys_lacking
from ptune.engine.decoder.inputs.lora_slots import Window
from ptune.engine.decoder.inputs.state_metadata import state_inputs
from ptune.engine.decoder.sequence import Chunk
from ptune.engine.onnx_graph import Array
from ptune.formats.signature import LORA_GAINED, LORA_ONES

PAGE_SCORES = 1024  # of a page


@dataclass(frozen=True)
class Demands:
    """What graphs and cache ask of every layout."""

    least: int  # cells of a step
    least_queries: int  # of a head in a sequence
    heads: Heads | None  # of attention, where there is a grouped graph
    room: int  # of a slot, in tokens
    states: bool = False  # whether layers keep some
    keys: int = 1  # that a sequence must have, where slots have room for more
    axes: int = 1  # of a token's position

    @property
    def least_keys(self) -> int:
        """Keys that a sequence must have: in slots of fewer, all sequences have few."""
        return self.keys if self.room >= self.keys else 1


class BatchLayout:
    """Layout of chunks in a window of LoRA slots. It also fits other chunks of the same lengths, slots and wanted columns."""

    def __init__(self, chunks: Sequence[Chunk], window: Window, demands: Demands) -> None:
        slots = [chunk.sequence.slot for chunk in chunks if chunk.sequence.slot is not None]
        self.slots = range(min(slots), max(slots) + 1)
        flat, width = flat_indices(chunks, window, demands.least)
        self.tokens = Tokens.of(chunks, flat, window.count * width, self.slots)
        self._shape = (window.count, width)
        lacking = keys_lacking(chunks, demands.least_keys)
        self._least_queries = np.maximum(demands.least_queries, lacking)
        self._heads, self._room = None if max(lacking) else demands.heads, demands.room
        self._axes = demands.axes
        self._states = state_inputs(self.tokens) if demands.states else {}
        wanted_cells = [indices[chunk.wanted.start :] for chunk, indices in zip(chunks, flat, strict=True)]
        wanted = np.unique(np.concatenate([[], *wanted_cells]).astype(np.int64) % width)
        self.wanted = wanted if len(wanted) else np.zeros(1, np.int64)  # the graph needs at least one
        self.answers = [
            (cells // width, np.searchsorted(self.wanted, cells % width)) for cells in wanted_cells
        ]
        adapters = [chunk.plugged for chunk in chunks]
        adapted = [adapter is not None for adapter in adapters]
        self._lora = {"lora_mask": self._marked(flat, adapted, window.rank, slice(None))}
        if window.biases:
            biased = [adapter is not None and adapter.biased for adapter in adapters]
            self._lora[LORA_ONES] = self._marked(flat, biased, window.rank, slice(1))
        if window.gains:
            gained = [adapter is not None and bool(adapter.gains) for adapter in adapters]
            self._lora[LORA_GAINED] = self._marked(flat, gained, 1, slice(None))

    def _marked(self, flat: Sequence[Indices], which: Sequence[bool], rank: int, ranks: slice) -> Array:
        """Zeros [groups, width, rank], with ones in these ranks of the cells of the chunks that count."""
        marks = np.zeros((self.tokens.cells, rank), np.float32)
        for indices, counts in zip(flat, which, strict=True):
            marks[indices, ranks] = counts
        return marks.reshape(*self._shape, rank)

    def inputs(self, chunks: Sequence[Chunk]) -> tuple[dict[str, Array], bool]:
        """Returns the graph's inputs except caches and factors, and whether they are for the grouped graph.

        Cells without a token hold token 0, whose output is ignored.
        """
        start = np.array([chunk.start for chunk in chunks])
        ids = np.zeros(self.tokens.cells, np.int64)
        ids[self.tokens.cell] = [token for chunk in chunks for token in chunk.tokens]
        inputs: dict[str, Array] = {
            "input_ids": ids.reshape(self._shape),
            "position_ids": self._positions(chunks, start),
            "logits_indices": self.wanted,
            **self._lora,
            **self._states,
        }
        if self._grouped is not None and self._grouped.fits(start, self._room):
            return {**inputs, **self._grouped.at(start)}, True
        return {**inputs, **self._padded.at(start)}, False

    def _positions(self, chunks: Sequence[Chunk], start: Indices) -> Array:
        """The position of each cell's token in its sequence: [groups, width], or [axes, groups, width]."""
        positions = np.zeros((self._axes, self.tokens.cells), np.int64)
        positions[:, self.tokens.cell] = self.tokens.positions(start)
        if self._axes == 1:
            return positions.reshape(self._shape)
        ends = np.cumsum(self.tokens.size)
        for chunk, end in zip(chunks, ends.tolist(), strict=True):
            if (placed := chunk.sequence.placed) is not None:
                mine = self.tokens.cell[end - len(chunk) : end]
                positions[:, mine] = placed.between(chunk.start, chunk.start + len(chunk))
        return positions.reshape(self._axes, *self._shape)

    def written(self, inputs: Mapping[str, Array]) -> tuple[Indices, Indices]:
        """Returns the slots that a step with these inputs writes to, and how many positions each has then."""
        index = self.tokens.batch_index
        return index + self.slots.start, inputs["seqlens_k"][index].astype(np.int64) + 1

    def scores(self, inputs: Mapping[str, Array]) -> int:
        """Returns how many scores of a head attention computes in the padded layout, rounded up to pages for each query."""
        _, positions = self.written(inputs)
        return int((self.tokens.size * np.maximum(positions, PAGE_SCORES)).sum())

    @cached_property
    def _grouped(self) -> PackedGqaQueries | None:
        return None if self._heads is None else PackedGqaQueries(self.tokens, self._heads)

    @cached_property
    def _padded(self) -> PaddedQueries:
        return PaddedQueries(self.tokens, self._room, self._least_queries)


class BatchLayoutCache:
    """Keeps the last layout of each of a step's runs, which is usually the next step's."""

    def __init__(self, demands: Demands) -> None:
        self._demands = demands
        self._last: dict[int, tuple[object, Window, BatchLayout]] = {}

    def of(self, chunks: Sequence[Chunk], window: Window, run: int) -> BatchLayout:
        """Returns the layout of the step's run-th part."""
        # A window holds its adapters weakly; a freed one is in no window, so its id means nothing here.
        key = [
            (chunk.sequence.slot, len(chunk), chunk.wanted.start, id(chunk.plugged), lacking)
            for chunk, lacking in zip(chunks, keys_lacking(chunks, self._demands.least_keys), strict=True)
        ]
        last = self._last.get(run)
        if last is None or last[0] != key or last[1] is not window:
            last = self._last[run] = key, window, BatchLayout(chunks, window, self._demands)
        return last[2]
