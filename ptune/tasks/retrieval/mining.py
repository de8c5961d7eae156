"""Mines hard negatives: passages close to an anchor that are not its own. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.data.shapes.pairs import Pair

_AT_ONCE = 512  # rows whose cosines are in memory at a time


def mined(
    rows: Sequence[Pair],
    anchors: NDArray[Any],
    passages: Sequence[str],
    vectors: NDArray[Any],
    *,
    count: int,
    skip: int = 0,
    margin: float = 0.95,
) -> list[list[str]]:
    """For each row the `count` nearest passages, the nearest first; fewer where there are not so many.

    anchors: [rows, width], vectors: [passages, width], all of length 1. skip: so many of the nearest are left out: they
    may be right without anybody having said so. For the same reason a passage is only taken whose cosine is at most
    `margin` times that of the row's own (positive-aware mining: Moreira et al. 2024, https://arxiv.org/abs/2407.15831).
    """
    index = {text: at for at, text in enumerate(passages)}
    right: dict[str, set[int]] = {}
    for row in rows:
        known = right.setdefault(row.anchor, set())
        known |= {index[row.positive], *([index[row.anchor]] if row.anchor in index else [])}
    negatives = []
    for start in range(0, len(rows), _AT_ONCE):
        cosines = anchors[start : start + _AT_ONCE] @ vectors.T
        for row, scores in zip(rows[start : start + _AT_ONCE], cosines, strict=True):
            own = float(scores[index[row.positive]])
            limit = own * margin if own > 0 else own / margin
            near = (int(at) for at in np.argsort(-scores, kind="stable"))
            wrong = [at for at in near if at not in right[row.anchor] and scores[at] <= limit]
            negatives.append([passages[at] for at in wrong[skip : skip + count]])
    return negatives
