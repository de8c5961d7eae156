"""The contrastive loss: for each anchor, every other passage of the batch is wrong, at several sizes of the vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ptune.data.examples.pairs import PairExample


@dataclass(frozen=True)
class Layout:
    """Positions of a batch's distinct texts. Tensors are on the CPU until `to`."""

    texts: list[tuple[int, ...]]  # tokens of each, no two alike
    anchors: Tensor  # [rows] indices of texts
    candidates: Tensor  # [columns] likewise: every passage once
    own: Tensor  # [rows] column of the passage that is right
    excluded: (
        Tensor  # [rows, columns] passages that say nothing: right by another row, or the anchor's own words
    )


def layout_of(examples: Sequence[PairExample], device: torch.device | str = "cpu") -> Layout:
    """The layout of a batch. Repeated texts count once, so that a text is never a wrong answer to itself."""
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
    """Loss of vectors [texts, width], summed over rows, and the number of rows closest to their own passage.

    The cross-entropy of an anchor's cosines with all passages, divided by the temperature (InfoNCE: van den Oord et al.
    2018); averaged over the full vector and its first N numbers for each N in `sizes` (Matryoshka: Kusupati et al. 2022,
    https://arxiv.org/abs/2205.13147).
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
