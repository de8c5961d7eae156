"""Three amounts of training: a quick look, as much as the task usually takes, and the best that more time gives."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ptune.config.recipe import Recipe
from ptune.spec import Spec

Preset: TypeAlias = Literal["quick", "balanced", "best"]
WHAT: dict[Preset, str] = {
    "quick": "20 steps on at most 200 rows, only to see that all of it works",
    "balanced": "as many passes over your rows as this task usually takes",
    "best": "up to three times as many passes; stops when it gets no better on held-out rows, and keeps the best",
}
QUICK_STEPS, QUICK_ROWS, QUICK_HELD_OUT = 20, 200, 20
LONGER, PATIENCE = 3, 6


def with_preset(recipe: Recipe, preset: Preset) -> Recipe:
    """The recipe with the preset's fields. In each of them `plan.auto` changes what would not fit into memory."""
    recipe = _changed(recipe, "plan", auto=True)
    if preset == "quick":
        recipe = _changed(recipe, "train", max_steps=QUICK_STEPS, min_steps=None)
        recipe = _changed(recipe, "data", limit=QUICK_ROWS)
        return _changed(recipe, "evaluate", limit=QUICK_HELD_OUT, answers=3)
    if preset == "best":
        return _changed(recipe, "train", epochs=recipe.train.epochs * LONGER, patience=PATIENCE)
    return recipe


def _changed(recipe: Recipe, part: str, **fields: Any) -> Recipe:
    spec: Spec = getattr(recipe, part)
    return recipe.model_copy(update={part: type(spec).model_validate({**spec.model_dump(), **fields})})
