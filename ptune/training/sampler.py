"""The interface between the loop and an objective whose examples are not data, but what the model makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

from torch import nn

from ptune.training.objective import Objective


class Sampler(Protocol):
    """Makes a step's examples. What it makes depends on the model's weights, the examples and the step alone."""

    def sample(self, model: nn.Module, examples: Sequence[Any], step: int) -> Sequence[Any]:
        """What the objective learns from in this step; the same in all processes."""

    def report(self) -> dict[str, float]:
        """What the journal says of this step's examples, after their gradient was computed.

        Raises: PtuneError if they are not to be learnt from.
        """


@runtime_checkable
class RewardedSampler(Sampler, Protocol):
    """A sampler of answers that are rewarded: what is watched is their reward, not the loss."""

    def reward(self, model: nn.Module, examples: Sequence[Any]) -> float:
        """The mean reward of held-out examples."""


def sampler_of(objective: Objective) -> Sampler | None:
    """The sampler of an objective that has one."""
    return cast(Sampler | None, getattr(objective, "sampler", None))


def rewarded(objective: Objective) -> RewardedSampler | None:
    """The sampler of an objective whose answers are rewarded."""
    sampler = sampler_of(objective)
    return sampler if isinstance(sampler, RewardedSampler) else None
