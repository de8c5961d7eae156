"""Three amounts of training: a quick look, as much as the task usually takes, and the best that more time gives."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ptune.config.recipe import Recipe
from ptune.spec import Spec

Preset: TypeAlias = Literal["quick", "balanced", "best"]
WHAT: dict[Preset, str] = {
    "quick": "20 steps on at most 200 rows, only to see that all of it works",
    "balanced": "as many passes over your rows as this task usually takes, and more of them over few rows",
    "best": "up to three times as long; stops when it gets no better on held-out rows, and keeps the best",
}
QUICK_STEPS, QUICK_ROWS, QUICK_HELD_OUT = 20, 200, 20
LEAST_STEPS = 50
"""Of a balanced training, where its task has no floor of its own: one pass over a few dozen rows is a handful of steps."""
LONGER, PATIENCE = 3, 6


def with_preset(recipe: Recipe, preset: Preset) -> Recipe:
    """The recipe with the preset's fields. In each of them `plan.auto` changes what would not fit into memory.

    However many rows there are, quick takes no more steps than balanced, and best up to three times as many.
    """
    recipe, train = _changed(recipe, "plan", auto=True), recipe.train
    most, least = train.max_steps, train.min_steps or LEAST_STEPS
    if preset == "quick":
        steps = QUICK_STEPS if most is None else min(QUICK_STEPS, most)
        recipe = _changed(recipe, "train", max_steps=steps, min_steps=None)
        recipe = _changed(recipe, "data", limit=QUICK_ROWS)
        return _changed(recipe, "evaluate", limit=QUICK_HELD_OUT, answers=3)
    if preset == "balanced":
        return _changed(recipe, "train", min_steps=max(least, QUICK_STEPS))
    return _changed(
        recipe,
        "train",
        epochs=train.epochs * LONGER,
        max_steps=None if most is None else most * LONGER,
        min_steps=max(least, QUICK_STEPS) * LONGER,
        patience=max(PATIENCE, train.patience or 0),
    )


def _changed(recipe: Recipe, part: str, **fields: Any) -> Recipe:
    spec: Spec = getattr(recipe, part)
    return recipe.model_copy(update={part: type(spec).model_validate({**spec.model_dump(), **fields})})
