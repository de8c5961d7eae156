"""The command lines of the studio, as a user would type them in the workspace's folder."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.begin.starts import STARTS
from ptune.studio.data.choice import Choice

ROWS = 8  # that are shown token by token


def doctor(choice: Choice, model: str | None = None) -> tuple[str, ...]:
    """Examines the chosen data with the recipe that its task starts from."""
    assert choice.task is not None
    named = [word for column, name in choice.columns.items() for word in (f"--task.columns.{column}", name)]
    chosen = () if model is None else ("--backbone.model", model)
    return ("ptune", "doctor", STARTS[choice.task].recipe, "--data.files", *choice.files, *named, *chosen)


def as_json(command: Sequence[str], *options: str) -> tuple[str, ...]:
    """The same, for the studio to read."""
    return (*command, *options, "--json")


def plan(recipe: str, card: str | None = None, *, timed: bool = False) -> tuple[str, ...]:
    """Predicts the memory of a recipe's training. card: as `ptune plan --gpu` takes it; timed: a few steps are made, too."""
    return ("ptune", "plan", recipe, *(("--gpu", card) if card else ()), *(("--time",) if timed else ()))


def train(recipe: str, run: str, *, resume: bool = False) -> tuple[str, ...]:
    """Trains a recipe's file into a run's folder."""
    return ("ptune", "train", recipe, "--out", run, *(("--resume",) if resume else ()))
