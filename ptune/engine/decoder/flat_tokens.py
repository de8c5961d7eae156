"""How a step's tokens lie before the graph: flat, in groups of equal size, a group for each adapter.

A product with factors [G, in, R] takes tokens [G, m, in]: those of group g meet adapter g alone. Tokens of the base lie
wherever there is room, and choose no adapter. Where the groups would be of very different sizes (one adapter reads a prompt
while others generate), most cells would be empty: then the largest are computed in runs of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.lora_slots import Window
from ptune.engine.decoder.sequence import Chunk

Indices = npt.NDArray[np.int64]
LEAST = 2  # queries of a head in a sequence
EMPTY = 8  # cells that may be empty in any case


def divide(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Which chunks are computed in one run of the graph."""
    groups: dict[Adapter | None, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        groups[chunk.row.adapter].append(chunk)
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
    """Where each chunk's tokens lie among G * m >= least, row by row of [G, m]; and m."""
    places: list[list[Chunk]] = [[] for _ in range(window.count)]
    base = [chunk for chunk in chunks if chunk.row.adapter is None]
    for chunk in chunks:
        if chunk.row.adapter is not None:
            places[window.groups[chunk.row.adapter]].append(chunk)
    total = max(sum(map(len, chunks)), least)
    width = max(max(map(_tokens, places)), -(-total // window.count))
    found: dict[Chunk, Indices] = {}
    free = []
    for group, members in enumerate(places):
        at = group * width
        for chunk in members:
            found[chunk] = np.arange(at, at + len(chunk))
            at += len(chunk)
        free.append(np.arange(at, (group + 1) * width))
    left = np.concatenate(free)
    for chunk in base:
        found[chunk], left = left[: len(chunk)], left[len(chunk) :]
    return [found[chunk] for chunk in chunks], width


def _tokens(chunks: Sequence[Chunk]) -> int:
    return sum(map(len, chunks))


def split_to_fit(chunks: Sequence[Chunk], room: int) -> list[Sequence[Chunk]]:
    """In as few parts as is needed: the longest chunk must fit behind each of a part. room: of a slot, in tokens.

    onnxruntime asks for that, though it writes no more than a sequence's own tokens.
    """
    seq = max(LEAST, *map(len, chunks))
    tight = [chunk for chunk in chunks if chunk.start + seq > room]
    if not tight or len(chunks) == 1:
        return [chunks]
    roomy = [chunk for chunk in chunks if chunk.start + seq <= room]
    return [*split_to_fit(roomy, room), *split_to_fit(tight, room)]


@dataclass(frozen=True)
class Tokens:
    """Where a step's tokens lie: in which flat cell, and in which place of which sequence of the batch."""

    cells: int  # flat cells, with or without a token
    cell: Indices  # [tokens]
    owner: Indices  # [tokens] its sequence
    column: Indices  # [tokens] its place in its chunk
    first: Indices  # [chunks] cell of the chunk's first token
    row: Indices  # [chunks] the chunk's sequence
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
            size,
            len(slots),
        )

    def positions(self, start: Indices) -> Indices:
        """[tokens] the place of each in its sequence. start: [chunks] tokens of it in the cache."""
        return np.repeat(start, self.size) + self.column
