"""The interface between the loop and an objective whose examples are not data, but what the model makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

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


@runtime_checkable
class ReusingSampler(Sampler, Protocol):
    """A sampler whose examples may serve several steps, so that a checkpoint between two of these holds them."""

    def held(self, step: int) -> Mapping[str, Tensor]:
        """What a training goes on from after `step` steps; nothing where the next one samples anew. The same in all processes."""

    def take_up(self, step: int, held: Mapping[str, Tensor]) -> None:
        """Goes on from what was `held` after `step` steps. Raises: FormatError if that is not what they need."""


def sampler_of(objective: Objective) -> Sampler | None:
    """The sampler of an objective that has one."""
    return cast(Sampler | None, getattr(objective, "sampler", None))


def rewarded(objective: Objective) -> RewardedSampler | None:
    """The sampler of an objective whose answers are rewarded."""
    sampler = sampler_of(objective)
    return sampler if isinstance(sampler, RewardedSampler) else None


def reusing(objective: Objective) -> ReusingSampler | None:
    """The sampler of an objective whose examples may serve several steps."""
    sampler = sampler_of(objective)
    return sampler if isinstance(sampler, ReusingSampler) else None
