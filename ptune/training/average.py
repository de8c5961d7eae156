"""A running average of the trained weights, which is validated and saved in their place (Polyak and Juditsky 1992).

After step t the average is d a + (1 - d) w of the average a and the weights w, with d = min(decay, (1 + t) / (10 + t)), so that a
short run is no average of its beginning. The steps themselves go on from the weights.

The running means and variances of batch normalisation are averaged with the weights, as timm does: those of the weights themselves
belong to other activations than the average's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.methods.adalora import AdaLora


class Average:
    """The average of some parameters, or of what else training changes, in their types, beside them."""

    def __init__(self, parameters: Sequence[tuple[str, torch.Tensor]], decay: float) -> None:
        self.decay, self._parameters = decay, parameters
        self.tensors = {name: parameter.detach().clone() for name, parameter in parameters}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Takes in the weights of step number `step`, from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters:
            self.tensors[name].lerp_(parameter.detach(), 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the average."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters}
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters:
                    parameter.copy_(own[name])

    @torch.no_grad()
    def settle(self) -> None:
        """Gives the average to the model for good."""
        for name, parameter in self._parameters:
            parameter.copy_(self.tensors[name])


def check_average(recipe: Recipe) -> None:
    """Raises: RecipeError where an average of weights is none of models."""
    if recipe.train.ema is not None and isinstance(recipe.method, AdaLora):
        raise RecipeError(
            "train.ema does not go with method AdaLora: an average would bring back the ranks that it has given up"
        )
