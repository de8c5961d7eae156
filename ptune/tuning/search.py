"""The search: runs trials until there are enough. Several processes may share one study."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from ptune.errors import PtuneError, RecipeError
from ptune.formats.file_lock import take_lock
from ptune.formats.run import Run
from ptune.formats.whole_write import disk_errors
from ptune.progress import duration, say
from ptune.tuning.outcome import outcome, write
from ptune.tuning.settings import Search
from ptune.tuning.space import changed, spelled
from ptune.tuning.study import ask
from ptune.tuning.trial import Result, Start, beside, forget_checkpoints, ptune_train, run_trial

MOST_FAILURES = 3  # in a row; more mean that the recipe, the data or the machine is broken


def search_on(study: Study, search: Search, *, stop: Callable[[], bool], start: Start | None = None) -> bool:
    """Runs trials until the study has `search.trials`; returns False if it was stopped earlier.

    Resumes interrupted trials of this folder first. start: how a training begins; default: `ptune train` on this machine.
    Raises: PtuneError if trials fail repeatedly.
    """
    failures, start = 0, start or beside(ptune_train)
    while not stop():
        with _claimed(study, search) as (trial, lock):
            if trial is None:
                return True
            result = _run(study, search, trial, stop=stop, start=start, lock=lock)
        write(outcome(study, search, weighed=False), search)  # for those who watch
        if result.outcome == "interrupted":
            return False
        failures = failures + 1 if result.outcome == "failed" and not result.twin else 0
        finished = any(one.state == TrialState.COMPLETE for one in study.get_trials(deepcopy=False))
        if failures >= (MOST_FAILURES if finished else 1):
            log = search.trial_log(trial.number)
            raise PtuneError(f"trial {trial.number} failed: {result.why}\n  its log: {log}")
    return False


def _run(
    study: Study, search: Search, trial: Trial, *, stop: Callable[[], bool], start: Start, lock: int
) -> Result:
    """Trains one trial and records its result in the study."""
    number, values = trial.number, ask(search, trial)
    if (twin := _twin(study, trial)) is not None:
        why = f"as trial {twin.number}"
        finished = twin.state == TrialState.COMPLETE
        result = Result("finished" if finished else "failed", twin.value, why=why, twin=True)
    else:
        say(f"trial {number}: {' '.join(f'{field}={spelled(value)}' for field, value in values.items())}")

        def validated(at: int, value: float) -> bool:
            return hopeless(trial, at, value)

        result = run_trial(search, number, validated=validated, stop=stop, start=start, keep_open=(lock,))
    say(f"trial {number}: {_ending(search, result)}")
    if result.outcome == "interrupted":
        return result
    forget_checkpoints(Run(search.trial_run(number)))
    facts: dict[str, Any] = {"steps": result.steps, "seconds": round(result.seconds, 3), "why": result.why}
    for name, value in facts.items():
        trial.set_user_attr(name, value)
    # A trial that went wrong counts as pruned before its first validation, so that TPE avoids its values.
    states = {"finished": TrialState.COMPLETE, "failed": TrialState.FAIL}
    state = states.get(result.outcome, TrialState.PRUNED)
    study.tell(number, result.value if state == TrialState.COMPLETE else None, state=state)
    return result


def hopeless(trial: Trial, at: int, value: float) -> bool:
    """Reports the validation of number `at`, and asks whether the trial is pruned by it.

    After a collapse a training repeats some validations. Then the newest counts, and until it is further than before
    nothing is asked: the pruner looks at the highest number, which is of what was given up.
    """
    reported = trial.storage.get_trial(trial._trial_id).intermediate_values
    if reported.get(at) != value:
        # `Trial.report` would keep the first value of a number; the pruner reads the trial's own copy.
        trial.storage.set_trial_intermediate_value(trial._trial_id, at, value)
        trial._cached_frozen_trial.intermediate_values[at] = value
    return at >= max(reported, default=at) and trial.should_prune()


def _ending(search: Search, result: Result) -> str:
    if result.outcome == "finished":
        took = result.why or f"{result.steps} steps in {duration(result.seconds)}"
        return f"{search.metric.replace('_', ' ')} {result.value:.4f} ({took})"
    return f"{result.outcome}{f': {result.why}' if result.why else f' after {result.steps} steps'}"


def _twin(study: Study, trial: Trial) -> FrozenTrial | None:
    """A finished or failed trial with the same values, whose result this one would repeat; None if there is none."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return next((one for one in ended if one.params == trial.params), None)


@contextlib.contextmanager
def _claimed(study: Study, search: Search) -> Iterator[tuple[Trial | None, int]]:
    """Claims a trial for this process while the block runs: one that was interrupted in this folder, or a new one.

    Yields None if the study has enough trials. The trial's recipe file is locked and the training inherits the lock, so a
    trial counts as interrupted only if neither its search nor its training is alive.
    """
    lock = -1
    try:
        with _one_at_a_time(search.folder):
            trial, lock = _orphan(study, search) or _new(study, search)
        yield trial, lock
    finally:
        if lock >= 0:
            os.close(lock)


def _orphan(study: Study, search: Search) -> tuple[Trial, int] | None:
    for one in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if one.user_attrs.get("place") != _place(search):
            continue  # from another folder or machine
        if _refused(study, search, Trial(study, one._trial_id)):
            continue
        if (lock := _locked(search.trial_recipe(one.number))) is not None:
            if study.get_trials(deepcopy=False)[one.number].state == TrialState.RUNNING:
                return Trial(study, one._trial_id), lock
            os.close(
                lock
            )  # it ended in another process after the list was read, and only then was its lock free
    return None


def _new(study: Study, search: Search) -> tuple[Trial | None, int]:
    while len(study.get_trials(deepcopy=False)) < search.trials:
        trial = study.ask()
        trial.set_user_attr("place", _place(search))
        if _refused(study, search, trial):
            continue
        lock = _locked(search.trial_recipe(trial.number))
        assert lock is not None  # no other process knows this trial yet
        return trial, lock
    return None, -1


def _refused(study: Study, search: Search, trial: Trial) -> bool:
    """Writes a trial's recipe if it is missing. Values that do not go together end the trial: each went with the recipe."""
    path = search.trial_recipe(trial.number)
    if path.is_file():
        return False
    try:
        recipe = changed(search.recipe, ask(search, trial))
    except RecipeError as error:
        why = str(error)
        say(f"trial {trial.number}: went wrong: {why}")
        trial.set_user_attr("why", why)
        study.tell(trial.number, None, state=TrialState.PRUNED)
        return True
    untested = recipe.data.model_copy(update={"test": ()})  # the test set must not influence a choice
    recipe.model_copy(update={"data": untested}).save(path)
    return False


def _place(search: Search) -> str:
    return f"{socket.gethostname()}:{search.folder.resolve()}"


def _locked(path: Path) -> int | None:
    """An open file descriptor that holds the file's lock; None if another process holds it."""
    held = os.open(path, os.O_RDONLY)
    if take_lock(held):
        return held
    os.close(held)
    return None


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Locks the folder, so that two processes claim neither the same trial nor one too many."""
    with disk_errors(folder):
        held = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
