"""Follows a deep model by two shallow ones: of layers that are alike, each adds the same bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from ptune.backbone.streaming import layers_of
from ptune.config.recipe import Recipe
from ptune.methods.freeze import FreezeExceptLast
from ptune.planning.model_memory import without_weights
from ptune.planning.skeleton import Skeleton, skeleton

_LONGEST_PATTERN = 8  # layers until their kinds begin anew: Gemma 3 has 6, five of them with a sliding window
# Weights of a model up to which the C library's heap is a noticeable share of the memory.
_HEAP_COUNTS = 2 * 10**9
_GROUPS = 2  # of layers in the smaller of the two: the last to come and the first to go, which may differ from others


@dataclass(frozen=True)
class Shallow:
    """Skeletons that stand for a model."""

    few: Skeleton
    more: Skeleton | None  # with one group of layers more; None: `few` has all layers
    lacking: int  # groups of layers that the model has beyond `few`

    def of_model(self, of: Callable[[Skeleton], int]) -> int:
        """A number of the model that grows by the same amount with each group of layers."""
        return of(self.few) if self.more is None else self.extended(of(self.few), of(self.more))

    def extended(self, few: int, more: int) -> int:
        """The same, from the numbers of the two skeletons."""
        return few + self.lacking * (more - few)


@dataclass(frozen=True)
class _Cut:
    """Numbers of layers that are followed."""

    few: int
    more: int
    lacking: int


def in_shapes(
    config: PretrainedConfig, recipe: Recipe, dtype: torch.dtype, device: Literal["cpu", "cuda"]
) -> Shallow:
    """The skeletons of the model that `recipe` would train; see `skeleton`.

    On a CPU all layers of a smaller model are followed: how its heap is used does not grow evenly.
    """
    plain = without_weights(config, AutoModelForCausalLM, trust_remote_code=recipe.backbone.trust_remote_code)
    weights = sum(parameter.numel() for parameter in plain.parameters())
    cut = _cut(plain, config, recipe) if device == "cuda" or weights > _HEAP_COUNTS else None
    if cut is not None:
        few, more = (skeleton(_with_layers(config, count), recipe, dtype) for count in (cut.few, cut.more))
        if (len(layers_of(few.backbone)), len(layers_of(more.backbone))) == (cut.few, cut.more):
            return Shallow(few, more, cut.lacking)
    return Shallow(skeleton(config, recipe, dtype), None, 0)


def _cut(plain: nn.Module, config: PretrainedConfig, recipe: Recipe) -> _Cut | None:
    """How many layers stand for all. None where they differ, or are so few that following all is as quick."""
    kinds = _kinds(plain, config)
    count = len(kinds)
    trained = recipe.method.layers if isinstance(recipe.method, FreezeExceptLast) else 0
    for pattern in range(1, _LONGEST_PATTERN + 1):
        if all(kinds[number] == kinds[number - pattern] for number in range(pattern, count)):
            few = count % pattern
            while few < trained + _GROUPS * pattern:
                few += pattern
            fewer = few + (few + pattern) < count
            return _Cut(few, few + pattern, (count - few) // pattern) if fewer else None
    return None


def _kinds(plain: nn.Module, config: PretrainedConfig) -> list[Hashable]:
    """A value for each layer, equal where layers are: the modules, weights and entries of the config that it has."""
    layers = layers_of(plain)
    text = config.get_text_config()
    lists = [value for value in vars(text).values() if isinstance(value, list) and len(value) == len(layers)]
    return [
        (
            tuple((name, type(part)) for name, part in layer.named_modules()),
            tuple((name, weight.shape) for name, weight in layer.named_parameters()),
            tuple(repr(value[number]) for value in lists),
        )
        for number, layer in enumerate(layers)
    ]


def _with_layers(config: PretrainedConfig, count: int) -> PretrainedConfig:
    """`config` with its first `count` layers only."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    layers = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:count])
    text.num_hidden_layers = count
    return config
