"""Trackers: where metrics go besides metrics.jsonl. Accelerate knows how to speak to each."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from accelerate import Accelerator

from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.formats.run import Run

_EXTRA = ("tensorboard", "trackio")  # what the extra `trackers` installs
_RUN_NAMES = {
    "clearml": "task_name",
    "mlflow": "run_name",
    "swanlab": "experiment_name",
    "trackio": "name",
    "wandb": "name",
}
"""What a tracker calls the name of one run."""


def tracker_of(recipe: Recipe) -> str | None:
    """The tracker's name in accelerate. Raises: RecipeError if it is not installed."""
    tracker = recipe.train.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        package = "'ptune[trackers]'" if tracker in _EXTRA else tracker.replace("_", "-")
        raise RecipeError(f"train.tracker: {tracker} is not installed; run: pip install {package}")
    return None if tracker == "none" else tracker


def start_tracker(recipe: Recipe, run: Run, accelerator: Accelerator) -> None:
    """Starts the tracker with the recipe's fields. Its project is called as the recipe is, its run as the run's folder.

    TensorBoard and the like, which write files, write them into RUN/tracker/.
    """
    tracker = recipe.train.tracker
    if tracker == "none":
        return
    if tracker == "tensorboard":  # it takes numbers and texts only, and the recipe stands beside its files
        accelerator.init_trackers("tracker")
        return
    fields = dict(_flat(recipe.model_dump(mode="json")))
    options = {tracker: {_RUN_NAMES[tracker]: run.folder.name}} if tracker in _RUN_NAMES else {}
    with contextlib.redirect_stdout(sys.stderr):  # they print, and stdout is for results
        accelerator.init_trackers(recipe.name, config=fields, init_kwargs=options)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The fields as `train.learning_rate` and the like, without those that are not set; lists as text."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", str(value) if isinstance(value, list) else value
