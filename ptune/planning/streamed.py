"""What a model whose layers are read as they run (`ptune.backbone.streaming`) takes less than one in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ptune.backbone.streaming import bytes_in_memory, streamable
from ptune.config.recipe import Recipe
from ptune.planning.depth import Shallow


@dataclass(frozen=True)
class Streamed:
    """Bytes of a model's layers."""

    weights: int = 0  # in the file
    scales: int = 0  # likewise
    slots: int = 0  # memory for the layer that runs and the one that is read meanwhile

    @property
    def away(self) -> int:
        """Bytes that memory does not hold."""
        return self.weights + self.scales - self.slots


def streamed(model: Shallow, recipe: Recipe) -> Streamed:
    """The bytes of the recipe's model; 0 where its layers stay in memory."""
    if not recipe.backbone.stream:
        return Streamed()

    def in_file(one: nn.Module, *, weights: bool) -> int:
        places = [place for layer in streamable(one) for place in layer]
        return sum(p.tensor.nbytes for p in places if isinstance(p.holder, nn.Parameter) == weights)

    largest = max(map(bytes_in_memory, streamable(model.few.backbone)), default=0)
    return Streamed(
        weights=model.of_model(lambda one: in_file(one.backbone, weights=True)),
        scales=model.of_model(lambda one: in_file(one.backbone, weights=False)),
        slots=2 * largest,
    )
