"""Learning-rate schedules as pure functions of the step, so that there is no state to save."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant", "wsd"]


def factor(step: int, steps: int, schedule: Schedule, *, warmup: float = 0.0, decay: float = 0.2) -> float:
    """The factor on the peak learning rate at `step` (from 0) of `steps`.

    It rises linearly over the share `warmup` of the steps, then the schedule falls from 1. Neither reaches 0 itself, so
    that no step is wasted. `wsd` (warm-up, stable, decay: Hu et al. 2024, https://arxiv.org/abs/2404.06395) falls linearly
    over the last share `decay`.
    """
    warmup_steps = round(warmup * steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    left = (steps - step) / (steps - warmup_steps)  # 1 at the end of the warm-up, towards 0 at the end
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (1 - left)))
    if schedule == "linear":
        return left
    if schedule == "wsd":
        return min(1.0, (steps - step) / (max(1, round(decay * steps)) + 1))
    return 1.0
