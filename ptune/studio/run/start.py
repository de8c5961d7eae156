"""Puts a recipe's training into the queue, unless it was trained before."""

from __future__ import annotations

from ptune.errors import UsageError
from ptune.studio import commands
from ptune.studio.jobs.queue import Jobs
from ptune.studio.recipe.drafts import free_name
from ptune.studio.run.courses import course


def start(jobs: Jobs, name: str) -> None:
    """Appends the training of recipes/NAME.yaml. Raises: UsageError if it waits, runs, was begun or has finished."""
    workspace = jobs.workspace
    before = jobs.newest("train", name)
    if before is not None and before.state in ("waiting", "running"):
        raise UsageError(f"{name} is {before.state} already: see the tab Run.")
    if (workspace.run(name) / "run.json").exists():
        other = free_name(workspace, name)
        if course(workspace, jobs.all(), name).finished:
            raise UsageError(
                f"{name} has finished, and its run stays as it is: judge it on the tab Judge, or call the recipe {other}"
                " to train once more."
            )
        raise UsageError(
            f"{name} was begun and has not finished: resume it on the tab Run, or call the recipe {other}."
        )
    jobs.add("train", name, commands.train(f"recipes/{name}.yaml", f"runs/{name}"))
