"""The loss of vectors: every passage of a batch but an anchor's own is wrong for it, at several sizes of the vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ptune.data.pair_examples import PairExample


@dataclass(frozen=True)
class Layout:
    """Which of a batch's distinct texts stand where. Tensors are on the CPU until `to`."""

    texts: list[tuple[int, ...]]  # tokens of each, no two alike
    anchors: Tensor  # [rows] indices of texts
    candidates: Tensor  # [columns] likewise: every passage once
    own: Tensor  # [rows] column of the passage that is right
    excluded: (
        Tensor  # [rows, columns] passages that say nothing: right by another row, or the anchor's own words
    )


def layout_of(examples: Sequence[PairExample], device: torch.device | str = "cpu") -> Layout:
    """A text that stands several times in a batch is one, so that it is never a wrong answer to itself."""
    index: dict[tuple[int, ...], int] = {}

    def place(text: tuple[int, ...]) -> int:
        return index.setdefault(text, len(index))

    anchors = [place(one.anchor) for one in examples]
    passages = [[place(text) for text in (one.positive, *one.negatives)] for one in examples]
    columns: dict[int, int] = {}
    for at in (*(row[0] for row in passages), *(other for row in passages for other in row[1:])):
        columns.setdefault(at, len(columns))
    right: dict[int, set[int]] = {}
    for anchor, row in zip(anchors, passages, strict=True):
        right.setdefault(anchor, {anchor}).add(row[0])
    excluded = torch.zeros(len(anchors), len(columns), dtype=torch.bool)
    for at, (anchor, row) in enumerate(zip(anchors, passages, strict=True)):
        for other in right[anchor] - {row[0]}:
            if other in columns:
                excluded[at, columns[other]] = True
    own = torch.tensor([columns[row[0]] for row in passages])
    return Layout(
        list(index),
        torch.tensor(anchors, device=device),
        torch.tensor(list(columns), device=device),
        own.to(device),
        excluded.to(device),
    )


def contrastive(
    vectors: Tensor, layout: Layout, temperature: float, sizes: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """[texts, width] vectors -> the loss, summed over rows, and how many rows are nearest to their own passage.

    The cross-entropy of an anchor's cosines with all passages, divided by the temperature (InfoNCE: van den Oord et al.
    2018); over the first so many numbers of the vector for each of `sizes`, too, and the mean of those (Matryoshka:
    Kusupati et al. 2022, https://arxiv.org/abs/2205.13147).
    """
    width = vectors.shape[1]
    losses, right = [], vectors.new_zeros(())
    for size in (width, *(size for size in sizes if size < width)):
        short = F.normalize(vectors[:, :size], dim=-1)
        cosines = short[layout.anchors] @ short[layout.candidates].T
        logits = (cosines / temperature).masked_fill(layout.excluded, -torch.inf)
        losses.append(F.cross_entropy(logits, layout.own, reduction="sum"))
        if size == width:
            right = (logits.argmax(-1) == layout.own).sum()
    return torch.stack(losses).mean(), right
