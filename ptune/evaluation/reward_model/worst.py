"""The pairs that a reward model orders most wrongly, as HTML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ptune.data.shapes.rewards import RewardPair
from ptune.evaluation.style import text

SHOWN = 12
_LENGTH = 300  # characters of a text


def gallery(rows: Sequence[RewardPair], rewards: NDArray[np.float64]) -> str:
    """Lists each prompt with its better and its worse answer, and their rewards."""
    by = rewards[:, 0] - rewards[:, 1]
    return "".join(_one(rows[at], rewards[at]) for at in np.argsort(by, kind="stable")[:SHOWN] if by[at] <= 0)


def _one(row: RewardPair, rewards: NDArray[np.float64]) -> str:
    columns = "".join(
        f"<div><h3>{side}: {reward:.2f}</h3><p>{text(_cut(answer))}</p></div>"
        for side, answer, reward in zip(("better", "worse"), row.answers, rewards, strict=True)
    )
    return f"<article><p>{text(_cut(row.anchor))}</p><div class=sides>{columns}</div></article>"


def _cut(said: str) -> str:
    return said if len(said) <= _LENGTH else f"{said[:_LENGTH]} …"
