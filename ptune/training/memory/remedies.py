"""The ways to make a training need less memory: one list for plans, errors and records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.methods.lora import Lora
from ptune.methods.peft_method import PeftMethod, streams

LEAST_ROW = 16  # smallest allowed train.micro_batch_tokens
SHORTEST = 128  # tokens: shorter examples are hardly worth training on
TILE = 1024  # positions: enough to keep a card busy

Section = Literal["train", "backbone", "task"]


@dataclass(frozen=True)
class Saving:
    """Fields of a recipe, with a function that makes them one notch cheaper."""

    section: Section
    fields: tuple[str, ...]
    cheaper: Callable[[Recipe], tuple[object, ...] | None]  # new values of `fields`; None: cannot get cheaper
    of_a_card: bool = False  # whether it saves the memory of a GPU, and none where a CPU computes

    def notch(self, recipe: Recipe) -> Recipe | None:
        """`recipe` one notch cheaper; None if it cannot get cheaper."""
        values = self.cheaper(recipe)
        if values is None:
            return None
        return changed(recipe, self.section, **dict(zip(self.fields, values, strict=True)))


def changed(recipe: Recipe, section: Section, **values: object) -> Recipe:
    """`recipe` with other values in one section."""
    part = getattr(recipe, section)
    return recipe.model_copy(update={section: part.model_copy(update=values)})


def _smaller_rows(recipe: Recipe) -> tuple[int] | None:
    half = recipe.train.micro_batch_tokens // 2
    return (half,) if half >= LEAST_ROW else None


def _checkpointing(recipe: Recipe) -> tuple[bool] | None:
    one_text = isinstance(recipe.method, Lora) and recipe.method.invocation
    return None if recipe.train.gradient_checkpointing or one_text else (True,)


def _offloading(recipe: Recipe) -> tuple[bool] | None:
    train = recipe.train
    return (True,) if train.gradient_checkpointing and not train.activation_offloading else None


def _tiles(recipe: Recipe) -> tuple[int] | None:
    """Tiles in the feed-forward part of a language model, whose layers are computed again anyway."""
    train = recipe.train
    can_be = isinstance(recipe.task, Chat) and train.gradient_checkpointing
    return (TILE,) if can_be and train.tiled_mlp is None else None


def _eight_bits(recipe: Recipe) -> tuple[str] | None:
    """8-bit AdamW where whole weights are trained. An adapter's state is too small to matter."""
    whole = not isinstance(recipe.method, PeftMethod)
    return ("adamw_8bit",) if whole and recipe.train.optimizer == "adamw" else None


def _nf4(recipe: Recipe) -> tuple[str] | None:
    """nf4, unless the base's weights are trained themselves or the task must not round them."""
    method = recipe.method
    beside = isinstance(method, PeftMethod) and "nf4" in method.quantized
    can_be = recipe.task.takes_rounded_weights and beside
    return ("nf4",) if can_be and recipe.backbone.quantize in ("none", "int8") else None


def _stream(recipe: Recipe) -> tuple[bool] | None:
    """Layers that are read as they run: of frozen ones, which are computed again for their gradient."""
    frozen = streams(recipe.method) and isinstance(recipe.task, Chat)
    return (True,) if frozen and recipe.train.gradient_checkpointing and not recipe.backbone.stream else None


def _shorter(recipe: Recipe) -> tuple[int, str] | None:
    half = getattr(recipe.task, "max_length", 0) // 2  # images have none
    if half < SHORTEST:
        return None
    overlong = getattr(recipe.task, "on_overlong", "error")
    return half, "truncate" if overlong == "error" else overlong


ROWS = Saving("train", ("micro_batch_tokens",), _smaller_rows)
"""Changes neither the batch nor the result: the gradient is accumulated exactly, in more forward passes."""
TILES = Saving("train", ("tiled_mlp",), _tiles)
"""The same result but for rounding, more time. Not every model has a feed-forward part that can be told."""
DEARER = (
    Saving("train", ("gradient_checkpointing",), _checkpointing),  # the same result, more time
    Saving("train", ("activation_offloading",), _offloading, of_a_card=True),  # the same, for main memory
    TILES,
    Saving("train", ("optimizer",), _eight_bits),  # nearly the same steps
    Saving("backbone", ("quantize",), _nf4),  # another base, slightly worse
    Saving("task", ("max_length", "on_overlong"), _shorter),  # loses data
)
"""The changes to try where smaller rows are not enough, cheapest first."""
STREAM = Saving("backbone", ("stream",), _stream)
"""The last resort: the same result, at the speed of a disk."""
SAVINGS = (ROWS, *DEARER, STREAM)


def options(before: Recipe, after: Recipe) -> tuple[str, ...]:
    """The memory-saving fields in which `after` differs from `before`, as command-line options."""
    return tuple(
        _option(saving.section, name, new)
        for saving in SAVINGS
        for name in saving.fields
        if (new := _value(after, saving.section, name)) != _value(before, saving.section, name)
    )


def as_planned(recipe: Recipe, before: Recipe) -> Recipe:
    """`recipe` with every field that a plan may change taken from `before`."""
    for saving in SAVINGS:
        known = [name for name in saving.fields if hasattr(getattr(before, saving.section), name)]
        recipe = changed(recipe, saving.section, **{n: _value(before, saving.section, n) for n in known})
    return recipe


def _value(recipe: Recipe, section: Section, name: str) -> object:
    return getattr(getattr(recipe, section), name, None)


def _option(section: Section, name: str, value: object) -> str:
    option = f"--{section}.{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"
