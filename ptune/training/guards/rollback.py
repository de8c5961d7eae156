"""What follows a collapse: training goes back to its last good checkpoint with a lower rate, or it ends."""

from __future__ import annotations

from dataclasses import replace

from ptune.errors import PtuneError
from ptune.formats.run import Rollback
from ptune.progress import say
from ptune.training.checkpoint import LR_FACTOR, State
from ptune.training.guards.collapse import Levels, Watched
from ptune.training.job import Job


def levels_of(job: Job) -> Levels:
    """The losses of the best constant answers on the job's examples."""
    if not job.train.rollbacks:
        return Levels()
    training = job.objective.constant_loss(job.examples)
    return Levels(training, job.objective.constant_loss(job.validation) if job.validation else None)


def collapse_of(job: Job, state: State, moment: Watched) -> str | None:
    """What a validated step shows of a collapse; None if there is none."""
    if not job.train.rollbacks:
        return None
    loss = job.journal.latest["validation_loss"] if job.validation else None
    return moment.collapse(loss, may_be_slow=len(state.rollbacks) < job.train.rollbacks)


def roll_back(job: Job, state: State, told: str) -> tuple[State, bool]:
    """Goes back to the last good checkpoint with a third of the rate, and says so.

    Returns the state to go on from, and whether training ends instead, with the weights of its best checkpoint.
    Raises: PtuneError if there are no rollbacks left, and no checkpoint worth keeping.
    """
    seen = f"step {state.step}: training has collapsed: {told}"
    lr, to_step = job.train.lr * LR_FACTOR ** len(state.rollbacks), state.safe_step
    left = to_step is not None and len(state.rollbacks) < job.train.rollbacks
    if not left and not to_step:
        raise PtuneError(
            f"{seen}. It had learnt nothing before, at no rate down to {lr:.2g}: lower train.lr further, lengthen "
            "train.warmup, or check that the answers can be told from the data"
        )
    assert to_step is not None
    lower = lr * LR_FACTOR if left else 0.0
    rollbacks = (*state.rollbacks, Rollback(state.step, to_step, lower, told))
    if job.accelerator.is_main_process:
        say(f"{seen}. {rollbacks[-1].what_followed()}", style="red")
    if not left:
        return replace(state, rollbacks=rollbacks), True
    model = job.accelerator.unwrap_model(job.model)
    job.accelerator.wait_for_everyone()
    back = job.checkpoints.roll_back(to_step, rollbacks, model, job.optimizer)
    if job.samples is not None:
        job.samples.forget_after(to_step)
    job.accelerator.wait_for_everyone()
    return replace(back, seconds=state.seconds), False
