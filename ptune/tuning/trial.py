"""One trial: a training in a separate process, whose validations are watched while it runs.

A separate process returns all its memory, and a crash does not affect the search.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from ptune.child import module_command
from ptune.errors import FormatError
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import disk_errors
from ptune.tuning.settings import Metric, Search
from ptune.tuning.trial_log import entries

LOOK_EVERY_S = 0.2
STOP_LIMIT_S = 120.0  # how long a training may take to finish its step and save after a request to stop

Launch: TypeAlias = Callable[[Path, Path, bool], Sequence[str]]
"""(recipe.yaml, run folder, whether to resume) -> the command that trains."""


class Training(Protocol):
    """A training that runs somewhere else: what is needed of `subprocess.Popen`."""

    returncode: int | None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended. Raises: subprocess.TimeoutExpired."""

    def send_signal(self, number: int, /) -> None:
        """Asks it to stop (SIGINT)."""

    def kill(self) -> None:
        """Ends it at once."""


Start: TypeAlias = Callable[[Path, Path, Path, Sequence[int]], Training]
"""(recipe.yaml, run folder, log, file descriptors that stay open as long as it runs) -> the training, begun or gone on with."""

Outcome: TypeAlias = Literal["finished", "pruned", "went wrong", "failed", "interrupted"]


@dataclass(frozen=True)
class Result:
    """The result of a trial. `value` is the metric of the weights that the run kept; None unless it finished."""

    outcome: Outcome
    value: float | None = None
    steps: int = 0
    seconds: float = 0.0
    why: str = ""  # why it failed or went wrong, or where the result comes from
    twin: bool = False  # not trained: another trial had the same values


def ptune_train(recipe: Path, folder: Path, resume: bool) -> Sequence[str]:
    """The command `ptune train`, run by this Python interpreter."""
    command = module_command("ptune", "train", str(recipe), "--out", str(folder))
    return [*command, "--resume"] if resume else command


def has_begun(folder: Path) -> bool:
    """Whether a training has written into its run folder."""
    return folder.is_dir() and any(folder.iterdir())


def beside(launch: Launch) -> Start:
    """Starts trainings on this machine, each in a process of its own."""

    def start(recipe: Path, folder: Path, log: Path, keep_open: Sequence[int]) -> Training:
        command = launch(recipe, folder, has_begun(folder))
        with log.open("a", encoding="utf-8") as output:
            # A separate session: Ctrl-C reaches only the search, which passes it on once.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=keep_open,
            )

    return start


def run_trial(
    search: Search,
    number: int,
    *,
    validated: Callable[[int, float], bool],
    stop: Callable[[], bool],
    start: Start,
    keep_open: Sequence[int] = (),
) -> Result:
    """Trains until the training ends, `validated` returns True to prune it, or `stop` returns True.

    validated: called with the number of the validation and its metric. keep_open: file descriptors (locks) that stay open
    as long as the training runs. An interrupted trial continues from its newest checkpoint.
    """
    run = Run(search.trial_run(number))
    started_s = time.monotonic()
    with disk_errors(search.folder):
        process = start(search.trial_recipe(number), run.folder, search.trial_log(number), keep_open)
    try:
        asked = _watch(process, run, search.metric, validated, stop)
    finally:
        _end(process)
    return _result(search, number, process.wait(), asked, time.monotonic() - started_s)


@dataclass(frozen=True)
class _Asked:
    """Why a training was asked to stop, "" if it was not, and after how many validations."""

    why: Literal["", "pruned", "interrupted"]
    validations: int


def _watch(
    process: Training,
    run: Run,
    metric: Metric,
    validated: Callable[[int, float], bool],
    stop: Callable[[], bool],
) -> _Asked:
    """Waits for the process, and asks it to stop where its time is better spent otherwise.

    A training that goes back after a collapse forgets the validations since, and makes others of the same numbers.
    """
    seen: list[tuple[int, float]] = []
    while True:
        running = process.poll() is None  # else its last validations are written
        found = _validations(run, metric)
        del seen[_alike(seen, found) :]
        for validation in found[len(seen) :]:
            seen.append(validation)
            if validated(len(seen), validation[1]):
                _ask_to_stop(process)
                return _Asked("pruned", len(seen))
        if not running:
            return _Asked("", len(seen))
        if stop():
            _ask_to_stop(process)
            return _Asked("interrupted", len(seen))
        time.sleep(LOOK_EVERY_S)


def _alike(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _ask_to_stop(process: Training) -> None:
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_LIMIT_S)


def _end(process: Training) -> None:
    """Makes sure that the process is no longer running."""
    if process.poll() is None:
        process.kill()
    process.wait()


def _result(search: Search, number: int, code: int, asked: _Asked, seconds: float) -> Result:
    """What became of a trial; the same whether it was stopped in time, or had ended before anybody looked.

    So one that was found hopeless is pruned even if it went on to its end meanwhile. By its last validation none is: stopping it would
    save nothing.
    """
    run = Run(search.trial_run(number))
    hopeless = asked.why == "pruned" and asked.validations < len(_validations(run, search.metric))
    record = _record(run)
    steps = max((entry["step"] for entry in entries(run.metrics_path)), default=0)
    done = record is not None and record.status in ("finished", "stopped early") and code == 0
    if record is not None and done and not hopeless:
        value = kept_value(run, record, search.metric)
        if value is not None:
            return Result("finished", value, record.steps, record.seconds)
        return Result("failed", None, steps, seconds, f"it has no {search.metric}: is anything held out?")
    if asked.why == "pruned":
        return Result("pruned", None, steps, seconds)
    if asked.why == "interrupted":
        return Result("interrupted", None, steps, seconds)
    # A training that stops itself after some steps tells something about these values; other failures do not.
    why = _last_words(search.trial_log(number)) or f"it ended with exit code {code}"
    return Result("went wrong" if code == 1 and steps else "failed", None, steps, seconds, why)


def kept_value(run: Run, record: RunRecord, metric: Metric) -> float | None:
    """The metric at the step whose weights the run kept: the one with the lowest validation loss."""
    validations = [entry for entry in entries(run.metrics_path) if metric in entry]
    kept = [entry for entry in validations if entry["step"] == record.best_step] or validations[-1:]
    return float(kept[-1][metric]) if kept else None


def forget_checkpoints(run: Run) -> None:
    """Deletes the checkpoints of an ended trial: it is never resumed, and its weights are in adapter/ or model/."""
    shutil.rmtree(run.checkpoints_path, ignore_errors=True)


def _validations(run: Run, metric: Metric) -> list[tuple[int, float]]:
    """The step and the metric of each validation."""
    found = [entry for entry in entries(run.metrics_path) if metric in entry]
    return [(entry["step"], float(entry[metric])) for entry in found]


def _record(run: Run) -> RunRecord | None:
    try:
        return run.record()
    except FormatError:
        return None


def _last_words(log: Path) -> str:
    """The error that ended the training, else the last line of its log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.path.getsize(log) - 10_000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return errors[-1].removeprefix("error: ").strip()[:500] if errors else ""
