"""Order of a step's tokens in the graph's inputs: flat, in groups of equal size, one group for each adapter.

A product with factors [G, in, R] takes tokens [G, m, in]: tokens of group g are multiplied by adapter g alone. Tokens of the
base fill any free cells and select no adapter. Where the groups would differ much in size (one adapter reads a prompt while
others generate), most cells would be empty: then the largest groups are computed in runs of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.inputs.lora_slots import Window
from ptune.engine.decoder.sequence import Chunk

Indices = npt.NDArray[np.int64]
LEAST = 2  # queries of a head in a sequence
EMPTY = 8  # cells that may be empty in any case
FEW = 8  # tokens of a sequence that is generating, drafts included
SCORES = (
    1 << 24
)  # of a head in one run of the graph, as onnxruntime allocates them: batch * longest chunk * length of a slot


def divide(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Splits chunks into runs of the graph."""
    groups: dict[Adapter | None, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        groups[chunk.plugged].append(chunk)
    base = groups.pop(None, [])
    together = sorted(groups.values(), key=_tokens)
    runs = []
    while len(together) > 1 and _tokens(together[-1]) * len(together) > EMPTY + 2 * sum(
        map(_tokens, together)
    ):
        runs.append(together.pop())
    runs.append([*base, *(chunk for group in together for chunk in group)])
    return runs


def flat_indices(chunks: Sequence[Chunk], window: Window, least: int = 1) -> tuple[list[Indices], int]:
    """Returns each chunk's cells among G * m >= least, in the order of [G, m]; and m."""
    groups: list[list[Chunk]] = [[] for _ in range(window.count)]
    base = [chunk for chunk in chunks if chunk.plugged is None]
    for chunk in chunks:
        if chunk.plugged is not None:
            groups[window.groups[chunk.plugged]].append(chunk)
    total = max(sum(map(len, chunks)), least)
    width = max(max(map(_tokens, groups)), -(-total // window.count))
    cells: dict[Chunk, Indices] = {}
    free = []
    for group, members in enumerate(groups):
        at = group * width
        for chunk in members:
            cells[chunk] = np.arange(at, at + len(chunk))
            at += len(chunk)
        free.append(np.arange(at, (group + 1) * width))
    left = np.concatenate(free)
    for chunk in base:
        cells[chunk], left = left[: len(chunk)], left[len(chunk) :]
    return [cells[chunk] for chunk in chunks], width


def _tokens(chunks: Sequence[Chunk]) -> int:
    return sum(map(len, chunks))


def keys_lacking(chunks: Sequence[Chunk], least_keys: int) -> list[int]:
    """How many keys each chunk's sequence must get in this step, whatever is computed; 0 where it has enough.

    least_keys: see `ptune.engine.decoder.inputs.attention_metadata.least_keys`.
    """
    return [max(0, least_keys - chunk.start) if least_keys > 1 else 0 for chunk in chunks]


def split_to_fit(chunks: Sequence[Chunk], room: int, least_keys: int = 1) -> list[Sequence[Chunk]]:
    """Splits chunks into as few parts as possible, so that a part's longest chunk fits after each of its sequences.

    onnxruntime requires that, though it writes only a sequence's own tokens. room: of a slot, in tokens.
    """
    seq = max(LEAST, *map(len, chunks), *keys_lacking(chunks, least_keys))
    tight = [chunk for chunk in chunks if chunk.start + seq > room]
    if not tight or len(chunks) == 1:
        return [chunks]
    roomy = [chunk for chunk in chunks if chunk.start + seq <= room]
    return [*split_to_fit(roomy, room, least_keys), *split_to_fit(tight, room, least_keys)]


def split_wide(chunks: Sequence[Chunk], length: int) -> list[Sequence[Chunk]]:
    """Splits chunks so that the scores of attention stay small: prompts from generating sequences, then by slot.

    onnxruntime allocates scores for the longest chunk in every slot from the first to the last. length: of a slot, in tokens.
    """
    slots = [chunk.sequence.slot for chunk in chunks if chunk.sequence.slot is not None]
    width = max(slots) - min(slots) + 1
    if len(chunks) == 1 or width * max(LEAST, *map(len, chunks)) * length <= SCORES:
        return [chunks]
    ordered = sorted(chunks, key=lambda chunk: (len(chunk) > FEW, chunk.sequence.slot))
    few = sum(len(chunk) <= FEW for chunk in chunks)
    middle = few if 0 < few < len(chunks) else len(chunks) // 2
    return [*split_wide(ordered[:middle], length), *split_wide(ordered[middle:], length)]


@dataclass(frozen=True)
class Tokens:
    """Position of each token of a step: its flat cell, its sequence in the batch and its index in the chunk."""

    cells: int  # flat cells, with or without a token
    cell: Indices  # [tokens]
    owner: Indices  # [tokens] batch index of its sequence
    column: Indices  # [tokens] index in its chunk
    first: Indices  # [chunks] cell of the chunk's first token
    batch_index: Indices  # [chunks] of the chunk's sequence
    size: Indices  # [chunks] tokens in the chunk
    batch: int  # size of the batch; sequences without a chunk are idle

    @classmethod
    def of(cls, chunks: Sequence[Chunk], flat: Sequence[Indices], cells: int, slots: range) -> Tokens:
        """flat: the cells of each chunk. slots: the batch."""
        size = np.array([len(chunk) for chunk in chunks])
        batch_index = np.array([chunk.sequence.slot for chunk in chunks], np.int64) - slots.start
        return cls(
            cells,
            np.concatenate(flat),
            np.repeat(batch_index, size),
            np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size),
            np.array([indices[0] for indices in flat]),
            batch_index,
            size,
            len(slots),
        )

    def pad(self, width: int) -> Indices:
        """Returns the cell of each token in rows, one a sequence, [batch, width]; those behind a chunk's tokens repeat its first."""
        pad = np.zeros((self.batch, width), np.int64)
        pad[self.batch_index] = self.first[:, None]
        pad[self.owner, self.column] = self.cell
        return pad

    def unpad(self, width: int) -> Indices:
        """Returns the place (row-major in [batch, width]) of the token of each cell; 0 of one without a token."""
        unpad = np.zeros(self.cells, np.int64)
        unpad[self.cell] = self.owner * width + self.column
        return unpad

    def positions(self, start: Indices) -> Indices:
        """Returns each token's position in its sequence [tokens]. start: [chunks] tokens already in the cache."""
        return np.repeat(start, self.size) + self.column
