"""A training that leaves no run behind: its first steps are made to see how they go."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of
from ptune.errors import UsageError
from ptune.formats.run import Run
from ptune.kinds import imported
from ptune.training.calibration import begin_beside_original, calibrate
from ptune.training.checkpoint import Checkpoints
from ptune.training.distributed import accelerator_for
from ptune.training.job import Job
from ptune.training.journal.metrics_log import Journal
from ptune.training.memory.out_of_memory import memory_errors
from ptune.training.order import Order, mixture_of
from ptune.training.preparation import applied, prepared, resolved
from ptune.training.work import Work


@dataclass(frozen=True)
class Rehearsal:
    """The job of a training, and the order of its examples. recipe: with the changes of its plan."""

    recipe: Recipe
    job: Job
    order: Order

    def batch(self, step: int) -> Sequence[Any]:
        """The examples of a step, from 0."""
        return [self.job.examples[index] for index in self.order.batch(step)]


@contextlib.contextmanager
def rehearsal(recipe: Recipe) -> Iterator[Rehearsal]:
    """A training up to its first step, for the block; what is trained in it is gone afterwards.

    Raises: UsageError for a task that learns from its own answers, whose steps need more than a job; else as `ptune.fine_tune.train`.
    """
    if recipe.task.learns_from_answers:
        raise UsageError(
            f"{type(recipe.task).__name__} cannot be tried for a few steps: its answers are sampled as it trains"
        )
    with tempfile.TemporaryDirectory(prefix="ptune-rehearsal-") as folder:
        run = Run(Path(folder) / "run")
        accelerator = accelerator_for(recipe, run.folder, None)
        recipe = resolved(recipe, accelerator)
        work: Work = imported(task_of(recipe.task).work)(recipe, run, accelerator, "")
        recipe = work.recipe
        base = work.load(accelerator.device)
        model = applied(recipe, base.model, base.new_tokens, base.head)
        begin_beside_original(recipe, model, work)
        with memory_errors(recipe), work.objective(base.model, accelerator.device) as objective:
            calibrate(recipe, model, objective, work.data)
            run_model, optimizer = prepared(accelerator, model, recipe, base.head)
            job = Job(
                train=recipe.train,
                accelerator=accelerator,
                model=run_model,
                optimizer=optimizer,
                objective=objective,
                examples=work.data.train,
                validation=work.data.validation,
                journal=cast(Journal, _Nowhere()),
                checkpoints=Checkpoints(run.checkpoints_path, 1, writes=False),
                scaled=recipe.backbone.dtype == "float16",
            )
            mixture = mixture_of(work.data.parts, recipe.data.weights)
            order = Order(len(work.data.train), recipe.train.batch_size, recipe.train.seed, mixture)
            yield Rehearsal(recipe, job, order)


class _Nowhere:
    """A journal that discards everything."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}

    def write(self, step: int, **values: float | int) -> None:
        pass
