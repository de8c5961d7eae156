"""A search whose trials train on the machines of a cluster, as tasks.

The driver alone owns the study, so its database may be a file on the driver's machine. What the machines have to share is
the search's folder, where each trial's recipe, log and run are.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ray
from optuna.study import Study
from ray.exceptions import RayError, RayTaskError

from ptune.cluster.connection import Share
from ptune.cluster.inside import CRASHED, logged
from ptune.errors import PtuneError
from ptune.tuning.search import search_on
from ptune.tuning.settings import Search

Train = Callable[[Path, Path], int]
"""(recipe.yaml, run folder) -> the exit code of a training that begins there or goes on."""

MOST_LOSSES = 3  # machines that may be lost under one trial


def search_on_cluster(
    study: Study, search: Search, train: Train, given: Share, *, stop: Callable[[], bool]
) -> bool:
    """As `search_on`, with as many trials at a time as there are workers."""
    tasks = Tasks(train, given)
    broken = threading.Event()

    def one() -> bool:
        try:
            return search_on(study, search, stop=lambda: stop() or broken.is_set(), start=tasks.start)
        except BaseException:
            broken.set()  # the others stop their trials, which can be gone on with
            raise

    with ThreadPoolExecutor(given.workers) as pool:
        searches = [pool.submit(one) for _ in range(given.workers)]
        try:
            ended = [one.result() for one in searches]
            return all(ended)
        except KeyboardInterrupt:  # the second
            broken.set()
            tasks.kill()
            raise


class Tasks:
    """Starts trainings as Ray tasks."""

    def __init__(self, train: Train, given: Share) -> None:
        self._train, self._begun = train, list[Task]()
        self._options = {"num_cpus": given.cpus, "num_gpus": given.gpus, "max_retries": MOST_LOSSES}

    def start(self, recipe: Path, folder: Path, log: Path, keep_open: Sequence[int]) -> Task:
        """As `ptune.tuning.trial.Start`. The driver, which watches the trial, keeps its files open by itself."""
        log.touch()
        run = partial(self._train, recipe, folder)
        begin = logged.options(**self._options).remote
        task = Task(begin(run, os.getcwd(), str(log.absolute()), {}, str(folder.absolute())))
        self._begun.append(task)
        return task

    def kill(self) -> None:
        """Ends all trainings at once."""
        for task in self._begun:
            task.kill()


class Task:
    """One training: see `ptune.tuning.trial.Training`."""

    def __init__(self, ref: Any) -> None:
        self._ref = ref
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Raises: PtuneError if the task's machine does not see the search's folder."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises: subprocess.TimeoutExpired; PtuneError as `poll`."""
        if self.returncode is None:
            ready, _ = ray.wait([self._ref], timeout=timeout)
            if not ready:
                raise subprocess.TimeoutExpired("ptune train", timeout or 0)
            self.returncode = self._code()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Ray's cancellation arrives as Ctrl-C."""
        ray.cancel(self._ref)

    def kill(self) -> None:
        if self.returncode is None:
            ray.cancel(self._ref, force=True)

    def _code(self) -> int:
        try:
            return int(ray.get(self._ref))
        except RayTaskError as error:
            if isinstance(error.cause, PtuneError):
                raise error.cause from None
            raise
        except RayError:  # lost again and again, or ended at once
            return CRASHED
