"""run.json: the conditions under which a run began, and what a resume keeps of them."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

import torch
from accelerate import Accelerator

from ptune.config.recipe import Recipe
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import Run, RunRecord
from ptune.progress import say
from ptune.training.environment import changes, instruction_set, versions
from ptune.training.memory.remedies import as_planned, changed


def as_begun(recipe: Recipe, run: Run) -> Recipe:
    """The recipe with the dtype and plan that "auto" meant when the run began; now it might mean something else."""
    if not run.recipe_path.is_file():
        return recipe
    before = Recipe.load(run.recipe_path)
    if recipe.backbone.dtype == "auto":
        recipe = changed(recipe, "backbone", dtype=before.backbone.dtype)
    return as_planned(recipe, before) if recipe.plan.auto else recipe


def same_threads(run: Run) -> None:
    """Sets the number of threads that the run began with: sums are split over threads, so another number gives other bits."""
    if not run.record_path.is_file():
        return
    before, here = run.record().threads, torch.get_num_threads()
    if before not in (0, here):
        torch.set_num_threads(before)
        say(
            f"resuming with {before} threads, as the run began (this machine would use {here}): the same bits need the"
            " same number"
        )


def record_of(
    recipe: Recipe, run: Run, base: BaseIdentity, accelerator: Accelerator, command: str
) -> RunRecord:
    """run.json at the start. A resume keeps the time when the run began, and records and reports what has changed since.

    After such changes the run continues, but to different bits.
    """
    record = RunRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions=versions(),
        instruction_set=instruction_set(accelerator.device),
        threads=torch.get_num_threads(),
        processes=accelerator.num_processes,
        distributed=accelerator.distributed_type.value,
        base=base,
        method=type(recipe.method).__name__,
        optimizer=recipe.train.optimizer,
    )
    if not run.record_path.is_file():
        return record
    before = run.record()
    if changed_since := changes(before, record):
        say(f"resuming, but not to the same bits: {', '.join(changed_since)}")
    return record.model_copy(update={"created": before.created, "changes": (*before.changes, *changed_since)})


def resume_command(command: str, run: Run) -> str:
    """The command line that resumes the run."""
    if command.startswith("ptune quickstart") or "--resume" in command.split():
        return command  # quickstart resumes by itself
    again = f"ptune train {shlex.quote(str(run.recipe_path))} --out {shlex.quote(str(run.folder))}"
    return f"{command or again} --resume"
