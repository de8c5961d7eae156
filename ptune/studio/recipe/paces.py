"""How long a recipe's steps take here: as an earlier run of the same work took, or as the page has had them timed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ptune.config.recipe import Recipe
from ptune.errors import FormatError
from ptune.formats.whole_write import read_json, write_json
from ptune.studio.workspace import Workspace
from ptune.training.journal.pace import Pace, of_earlier_run, pace_in, same_steps


def known(workspace: Workspace, recipe: Recipe) -> Pace | None:
    """The pace of a recipe's steps; None where neither a run nor a timing tells it."""
    earlier = of_earlier_run(recipe, workspace.runs)
    if earlier is not None:
        return earlier
    try:
        return pace_in(read_json(_place(workspace, recipe)))
    except (FormatError, KeyError, TypeError, ValueError):
        return None


def keep(workspace: Workspace, recipe: Recipe, document: dict[str, Any]) -> None:
    """Remembers what `ptune plan --time --json` told of a recipe's steps."""
    write_json(_place(workspace, recipe), document)


def _place(workspace: Workspace, recipe: Recipe) -> Path:
    digest = hashlib.sha256(same_steps(recipe).encode()).hexdigest()
    return workspace.own / "paces" / f"{digest[:32]}.json"
