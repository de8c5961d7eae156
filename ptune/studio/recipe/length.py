"""How long each preset trains on the data that was chosen: about how many steps, and minutes where steps like them were timed."""

from __future__ import annotations

from ptune.begin.presets import WHAT, Preset
from ptune.config.recipe import Recipe
from ptune.progress import duration
from ptune.training.journal.pace import Pace, examples_of, length


def label(preset: Preset, recipe: Recipe | None, rows: int | None, pace: Pace | None = None) -> str:
    """A preset's name, what it does, and about how many steps and how long that is.

    recipe: with the preset; None if it is wrong. rows: of its data; None: not counted. pace: of its steps; None: not known.
    """
    told = f"{preset}: {WHAT[preset]}"
    if recipe is None or rows is None:
        return told
    found = length(recipe, examples_of(recipe, rows))
    most = "up to" if found.at_most else "about"
    often = found.steps * recipe.train.batch_size / found.examples / recipe.task.steps_per_batch
    passes = f"{often:,.0f}" if often >= 10 else f"{often:.2g}"
    steps = (
        f"{most} {found.steps:,} steps, {passes} pass{'es' * (passes != '1')} over {found.examples:,} rows"
    )
    lasts = "" if pace is None else f", {most} {duration(max(1.0, found.lasts_s(pace)))} by {pace.by}"
    return f"{told}. Here {steps}{lasts}"
