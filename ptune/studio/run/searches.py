"""Searches of the workspace as their files tell them: what was tried, which trial is the best, and its recipe. Without optuna."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ptune.config.recipe import Recipe
from ptune.errors import FormatError, UsageError
from ptune.formats.whole_write import read_json
from ptune.progress import duration
from ptune.studio.recipe.drafts import free_name
from ptune.studio.sheet import Cell, Content, sheet
from ptune.studio.workspace import Workspace
from ptune.tuning import space
from ptune.tuning.parallel import parallel
from ptune.tuning.space import Value, spelled

SHOWN = 10  # trials in the table
METRICS = ("validation_loss", "validation_accuracy")


def names(workspace: Workspace) -> list[str]:
    """The folders in runs/ that hold a search, the newest first."""
    found = [(path.stat().st_mtime, path.parent.name) for path in workspace.runs.glob("*/tune.json")]
    return [name for _, name in sorted(found, reverse=True)]


def document(workspace: Workspace, name: str) -> dict[str, Any] | None:
    """tune.json of a search, which a running one writes after each trial; None while there is none. Raises: UsageError."""
    try:
        return read_json(workspace.run(name) / "tune.json")
    except FormatError:
        return None


def shown(found: Mapping[str, Any]) -> str:
    """The trials as lines across the searched fields, and the best of them in a table."""
    return f'<div class="charts searched">{parallel(found)}</div>{_table(found)}'


def proposed(recipe: Recipe) -> str:
    """Words for `ptune tune --space`: the learning rate, and the rank of an adapter that has one."""
    words = [f"train.lr=log:{recipe.train.lr / 10:.1g}..{recipe.train.lr * 3:.1g}"]
    if "r" in type(recipe.method).model_fields:
        words.append("method.r=4|8|16")
    return " ".join(words)


def command(
    workspace: Workspace, name: str, words: str, trials: float | None, metric: str
) -> tuple[str, ...]:
    """The search over recipes/NAME.yaml. Raises: UsageError, RecipeError for a space or a number that cannot be searched."""
    path = workspace.recipe(name)
    recipe = Recipe.load(path)
    try:
        asked = shlex.split(words)
    except ValueError as error:
        raise UsageError(f"{words!r} cannot be read: {error}") from None
    space.check(space.parse(asked), recipe, metric)
    if trials is None or trials < 1 or trials != int(trials):
        raise UsageError(f"{trials} cannot be a number of trials: it is 1 or more")
    judged = ("--metric", metric) if metric != METRICS[0] else ()
    out = workspace.shown(workspace.run(f"{name}-tune"))
    return (
        "ptune", "tune", workspace.shown(path), "--trials", str(int(trials)), *judged, "--out", out, "--space", *asked
    )  # fmt: skip


def take_best(workspace: Workspace, name: str) -> str:
    """Makes the best trial's recipe one of the workspace's, and returns its name. Raises: UsageError if no trial has finished."""
    path = workspace.run(name) / "best.yaml"
    if not path.exists():
        raise UsageError(f"no trial of {name} has finished yet: there is no best one.")
    best = Recipe.load(path)
    plain = f"{best.name}-best"
    there = workspace.recipe(plain)
    if there.exists() and Recipe.load(there) == best.model_copy(update={"name": plain}):
        return plain
    free = free_name(workspace, plain)
    best.model_copy(update={"name": free}).save(workspace.recipe(free))
    return free


def _table(found: Mapping[str, Any]) -> str:
    fields = [*found["space"]]
    sign = 1 if found["direction"] == "minimize" else -1
    best = (found.get("best") or {}).get("trial")
    ranked = sorted(
        found["trials"], key=lambda one: (one["value"] is None, sign * (one["value"] or 0), one["number"])
    )
    rows = [_row(one, fields, best=one["number"] == best) for one in ranked[:SHOWN]]
    heads = ("trial", found["metric"].replace("_", " "), *fields, "time", "")
    counted = f"{len(ranked)} trials" if len(ranked) <= SHOWN else f"The best {SHOWN} of {len(ranked)} trials"
    return sheet(counted, heads, rows, words=(0, len(heads) - 1))


def _row(trial: Mapping[str, Any], fields: list[str], *, best: bool) -> list[Content]:
    value = trial["value"] if trial["value"] is not None else trial["last"]
    params: Mapping[str, Value] = trial["params"]
    state = "the best" if best else str(trial["state"])
    return [
        str(trial["number"]),
        Cell("–" if value is None else f"{value:.4f}", tone="good" if best else ""),
        *(spelled(params[field]) if field in params else "–" for field in fields),
        duration(trial["seconds"]),
        Cell(state, below=str(trial["why"] or ""), tone="good" if best else ""),
    ]
