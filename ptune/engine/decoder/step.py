"""One step: chunks of sequences -> flat arrays -> the graph -> logits. formats/signature.py defines the inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.inputs.batch_layout import BatchLayoutCache, Demands
from ptune.engine.decoder.inputs.end_inputs import EndInputs
from ptune.engine.decoder.inputs.flat_tokens import Indices, divide, split_to_fit, split_wide
from ptune.engine.decoder.inputs.lora_slots import LoraSlots
from ptune.engine.decoder.sequence import Chunk
from ptune.formats.signature import Signature

Logits = npt.NDArray[np.float32]


class Step:
    """Computes chunks of different sequences, lengths and adapters."""

    def __init__(self, graphs: Graphs, signature: Signature, cache: KvCache) -> None:
        self.graphs = graphs
        self._cache = cache
        self._vocab = signature.vocab_size
        self._plain = graphs.without_gains or graphs
        self._gained_slots = LoraSlots(signature, cache.slots, graphs.whole.packed, graphs.device)
        self._slots = self._gained_slots
        if graphs.without_gains is not None:
            plain = signature.without_gains()
            self._slots = LoraSlots(plain, cache.slots, self._plain.whole.packed, graphs.device)
        self._keeps_states = bool(signature.states)
        self._scores = (
            bool(signature.cache) and not graphs.own_attention
        )  # whether attention needs memory for them
        self._demands = Demands(
            graphs.least_tokens,
            graphs.least_queries,
            graphs.heads,
            cache.room,
            self._keeps_states,
            graphs.least_keys,
            signature.axes,
        )
        self._layouts = BatchLayoutCache(self._demands)
        ends = signature.ends
        self._end_inputs = None if ends is None or not ends.step_inputs else EndInputs(ends, self._vocab)
        self._rooms: dict[int, Logits] = {}

    def __call__(self, chunks: Sequence[Chunk]) -> list[Logits]:
        """Computes one or more chunks, in as few runs of the graph as is sensible; the sequences' caches grow by them.

        Returns for each chunk the logits of its wanted columns, [wanted, vocab of its adapter], possibly none. They are valid until the
        next step.
        """
        logits: dict[Chunk, Logits] = {}
        for at, part in enumerate(self._parts(chunks)):
            logits |= zip(part, self._run(part, at), strict=True)
        return [logits[chunk] for chunk in chunks]

    def _parts(self, chunks: Sequence[Chunk]) -> Sequence[Sequence[Chunk]]:
        """Chunks of each run of the graph. onnxruntime's attention needs more of them than its own."""
        runs, room = divide(chunks), self._cache.room
        if not self._scores:
            return runs
        narrow = [part for run in runs for part in split_wide(run, room)]
        return [part for run in narrow for part in split_to_fit(run, room, self._demands.least_keys)]

    def _run(self, chunks: Sequence[Chunk], at: int) -> list[Logits]:
        """Runs the graph once, for the step's at-th part."""
        adapters = {chunk.plugged for chunk in chunks if chunk.plugged is not None}
        gained = any(adapter.gains for adapter in adapters)
        graphs, slots = (self.graphs, self._gained_slots) if gained else (self._plain, self._slots)
        window = slots.of(adapters)
        layout = self._layouts.of(chunks, window, at)
        inputs, grouped = layout.inputs(chunks)
        if self._end_inputs is not None:
            inputs |= self._end_inputs.of(chunks, layout.tokens.cell, inputs["input_ids"])
        self._cache.write(*layout.written(inputs))
        for chunk in chunks if self._keeps_states else ():
            if not chunk.start and chunk.sequence.slot is not None:
                self._cache.states.begin(chunk.sequence.slot)
        caches = self._cache.window(layout.slots.start, layout.slots.stop)
        columns = self._vocab + window.columns
        logits = self._room_for(at, (window.count, len(layout.wanted), columns))
        sees = any(chunk.sees for chunk in chunks)
        session = graphs.of(sockets=bool(window.groups) or sees, grouped=grouped)
        scores = layout.scores(inputs) if self._scores and not grouped else 0
        session.run(inputs, caches, window.inputs, logits, scores)
        found = [logits_at(logits, *cells) for cells in layout.answers]
        return [self._own(chunk, rows) for chunk, rows in zip(chunks, found, strict=True)]

    def _own(self, chunk: Chunk, logits: Logits) -> Logits:
        """Logits over the tokens that a chunk's adapter knows; the base knows no other than its own."""
        adapter = chunk.sequence.adapter
        if adapter is not None and adapter.ends is not None:
            return adapter.ends.logits(logits)
        return logits[:, : self._vocab]

    def _room_for(self, at: int, shape: tuple[int, int, int]) -> Logits:
        """Returns memory for a run's logits, the same in every step: allocating pages takes longer than filling them."""
        size, room = math.prod(shape), self._rooms.get(at)
        if room is None or len(room) < size:
            room = self._rooms[at] = np.empty(size, np.float32)
        return room[:size].reshape(shape)


def logits_at(logits: Logits, groups: Indices, columns: Indices) -> Logits:
    """Selects [n, vocab] from [G, wanted, vocab]; without a copy where the cells are adjacent in one group, as most are."""
    if len(groups) and groups[0] == groups[-1]:
        return logits[groups[0], columns[0] : columns[-1] + 1]
    return logits[groups, columns]
