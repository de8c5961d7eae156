"""The task fields of a reward model's recipe. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ptune.config.columns import RewardColumns
from ptune.config.task_spec import TaskSpec

REWARD = "reward"
"""The one output of a reward model."""


class RewardModel(TaskSpec):
    """A number for a prompt and an answer, read together: the higher, the better the answer. Trained on pairs of answers."""

    columns: RewardColumns = RewardColumns()
    center_rewards_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the square of the sum of a pair's rewards, which draws rewards towards 0; usual: 0.01."""
    max_length: int = Field(default=512, ge=8)
    """Longest prompt with its answer, in tokens; if both are longer, the longer of the two is cut."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What to do with a pair of which a side is longer; their number is reported."""
