"""Trackers: where metrics go besides metrics.jsonl."""

from __future__ import annotations

import contextlib
import importlib.util
import sys

from accelerate import Accelerator

from ptune.config.recipe import Recipe
from ptune.errors import RecipeError


def tracker_of(recipe: Recipe) -> str | None:
    """The tracker's name in accelerate. Raises: RecipeError if it is not installed."""
    tracker = recipe.train.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise RecipeError(f"train.tracker: {tracker} is not installed; run: pip install 'ptune[trackers]'")
    return None if tracker == "none" else tracker


def start_tracker(recipe: Recipe, accelerator: Accelerator) -> None:
    """Starts the tracker. TensorBoard writes into RUN/tracker/, trackio into its own database under the recipe's name."""
    if recipe.train.tracker == "tensorboard":
        accelerator.init_trackers("tracker")
    elif recipe.train.tracker == "trackio":
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and stdout is for results
            accelerator.init_trackers(recipe.name, config=_flat(recipe.train.model_dump(mode="json")))


def _flat(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
