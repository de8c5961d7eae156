"""Says that a training is no better than always giving the same answer: once on the way, while it can be ended, and at its end.

It is no reason to stop: words often stay at the constant answer for hundreds of steps before they are learnt.
"""

from __future__ import annotations

from dataclasses import replace

from ptune.formats.run import WHAT_TO_TRY, NothingLearnt
from ptune.progress import say
from ptune.training.checkpoint import State
from ptune.training.guards.collapse import Levels, Watched
from ptune.training.job import Job

_SHARE, _VALIDATIONS = 3, 2  # a third of the steps and two validations are enough to have learnt something


def on_the_way(job: Job, state: State, moment: Watched, validate_every: int) -> State:
    """The state of a validated step; it says so if nothing is learnt yet, a third of the steps are done, and some are left."""
    enough = _SHARE * state.step >= moment.steps and state.step >= _VALIDATIONS * validate_every
    if state.nothing_learnt or not enough or state.step == moment.steps:
        return state
    return _noted(job, state, moment.levels, "nothing is learnt yet", "if that goes on, ")


def at_the_end(job: Job, state: State, levels: Levels) -> State:
    """The state at the end of a training; it says so if nothing was learnt."""
    return _noted(job, state, levels, "nothing was learnt", "")


def _noted(job: Job, state: State, levels: Levels, what: str, then: str) -> State:
    if state.best_loss is None or levels.validation is None or not levels.nothing_learnt(state.best_loss):
        return state
    moment = NothingLearnt(state.step, state.best_loss, levels.validation)
    if job.accelerator.is_main_process:
        say(f"step {state.step}: {what}: {moment.told()}; {then}{WHAT_TO_TRY}", style="red")
    return replace(state, nothing_learnt=(*state.nothing_learnt, moment))
