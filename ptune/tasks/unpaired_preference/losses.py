"""The losses of a judged answer, from its log-probability.

x is the answer's log-probability, the sum over its tokens, less the reference's; b is beta, s the logistic function.
w is the weight of the answer's verdict.

                desirable             undesirable
    kto         w (1 - s(b (x - z)))  w (1 - s(b (z - x)))      Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306
    apo_zero    w (1 - s(b x))        w s(b x)                  D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266

z, in the paper z0, is the mean of x over answers that belong to other prompts, at least 0: an estimate of how far the model
has moved away from its reference (their Kullback-Leibler divergence). No gradient goes through it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptune.config.unpaired_preference import UnpairedPreference


def losses(task: UnpairedPreference, gained: Tensor, desirable: Tensor, z: Tensor) -> Tensor:
    """The loss of each answer, [answers]. gained: x, [answers]; desirable: bool, [answers]; z: [], 0 in apo_zero."""
    weight_of = gained.new_tensor([task.undesirable_weight, task.desirable_weight])
    sign, weights = 2 * desirable.to(gained) - 1, weight_of[desirable.long()]
    return weights * torch.sigmoid(-task.beta * sign * (gained - z))


def right(gained: Tensor, desirable: Tensor, z: Tensor) -> Tensor:
    """Whether a desirable answer gained more than the model drifted, and an undesirable one less, bool, [answers]."""
    return torch.where(desirable, gained > z, gained < z)
