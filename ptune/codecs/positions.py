"""Positions in three dimensions (M-RoPE): of the tokens of a prompt with images. Torch-free: shared by training and serving.

A token of text has the same position in all three, time, height and width. The rows of an image stand at one time, each at its
place in the image's grid, and the text behind goes on after the grid's longer side (Qwen2-VL, https://arxiv.org/abs/2409.12191).
So positions follow from the tokens before, and a prefix has the same ones in every prompt.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.tiles import Grid
from ptune.codecs.vision import FIRST_ROW

AXES = 3
Positions = NDArray[np.int64]  # [3, tokens]


@dataclass(frozen=True, eq=False)
class TokenPositions:
    """The positions of a sequence's first tokens; tokens of text follow."""

    table: Positions
    next: int  # position of the token behind them

    @classmethod
    def of(cls, tokens: Sequence[int], grids: Mapping[int, Grid]) -> TokenPositions:
        """Tokens from a sequence's first one on. grids: the first row's token of each image -> its rows down and across."""
        table, here, text = np.zeros((AXES, len(tokens)), np.int64), 0, 0
        for start, image in _images(tokens, sorted(grids)):
            table[:, text:start] = here + np.arange(start - text)
            here += start - text
            down, across = grids[image]
            first = tokens[start] - image  # not 0 where a text was cut before it
            text = min(start + down * across - first, len(tokens))
            row = np.arange(first, first + text - start)
            table[:, start:text] = here + np.stack([np.zeros_like(row), row // across, row % across])
            here += max(down, across)
        table[:, text:] = here + np.arange(len(tokens) - text)
        return cls(table, here + len(tokens) - text)

    def between(self, start: int, end: int) -> Positions:
        """The positions of tokens [start, end), which may lie behind those of the table."""
        known = self.table.shape[1]
        behind = np.arange(max(start, known), max(end, known)) - known + self.next
        return np.concatenate([self.table[:, start:end], np.tile(behind, (AXES, 1))], 1)


def _images(tokens: Sequence[int], firsts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each image begins, and the token of its first row."""
    known, before = {*firsts}, 0
    for at, token in enumerate(tokens):
        if token >= FIRST_ROW and (token in known or before < FIRST_ROW):
            yield at, firsts[bisect_right(firsts, token) - 1]
        before = token
