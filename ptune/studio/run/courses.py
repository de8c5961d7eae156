"""The course of a run, as its files tell it: journal, record, job. Nothing is kept in memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.errors import PtuneError
from ptune.evaluation.curve import averaged
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import read_json
from ptune.studio.jobs.finished_runs import FINISHED
from ptune.studio.jobs.queue import Job, Jobs
from ptune.studio.workspace import Workspace

SMOOTHED_OVER = 20  # steps, of a long run; of a short one a tenth
RECENT = 20  # steps that the time left is told by
SPEEDS = ("tokens_per_s", "examples_per_s", "images_per_s", "pairs_per_s")
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Course:
    """A run: its journal's lines, its record, its newest training job.

    record: None before the first step is prepared. stepped: whether its job has written to the journal. samples: what the model
    answered while it trained.
    """

    name: str
    entries: Sequence[Mapping[str, Any]]
    record: RunRecord | None
    job: Job | None
    resumable: bool
    stepped: bool = True
    samples: Sequence[Mapping[str, Any]] = ()

    @property
    def state(self) -> str:
        """One word or two: of the job while there is one that goes on, else of the record."""
        if self.job is not None and self.job.state in ("waiting", "running"):
            return "stopping" if self.job.stopping else self.job.state
        if self.record is not None and self.record.status != "running":
            return self.record.status
        if self.job is not None and self.job.state in ("failed", "stopped"):
            return self.job.state
        return "cut off" if self.record is not None else "not begun"

    @property
    def preparing(self) -> bool:
        """Whether its job runs and is not yet at its first step: data is read, and the model loaded."""
        return self.state in ("running", "stopping") and not (self.entries and self.stepped)

    @property
    def finished(self) -> bool:
        """Whether it can be evaluated and exported."""
        return self.state in FINISHED

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.entries[-1]["step"]) if self.entries else 0

    @property
    def planned(self) -> int:
        """Optimiser steps that it is to take; 0: not known."""
        return 0 if self.record is None else self.record.planned_steps

    @property
    def left_s(self) -> float | None:
        """Seconds until the last step, by the recent ones; validations are not counted. None if not known."""
        recent = [seconds for _, seconds in self.points("seconds")[-RECENT:]]
        if not recent or self.preparing or self.planned <= self.step:
            return None
        return statistics.fmean(recent) * (self.planned - self.step)

    def points(self, key: str) -> Points:
        """Step and value of each entry that has the value."""
        return [
            (entry["step"], entry[key]) for entry in self.entries if isinstance(entry.get(key), int | float)
        ]

    def smoothed(self, key: str) -> Points:
        """The same, averaged."""
        points = self.points(key)
        return averaged(points, max(2, min(SMOOTHED_OVER, len(points) // 10)))

    def newest(self, key: str) -> float | None:
        """The newest value."""
        points = self.points(key)
        return points[-1][1] if points else None

    @property
    def speed(self) -> str:
        """The journal's name of its speed."""
        return next((key for key in SPEEDS if self.points(key)), SPEEDS[0])


def course(workspace: Workspace, jobs: Sequence[Job], name: str) -> Course:
    """The course of a run, which need not have begun. Raises: UsageError for what is no name."""
    run = Run(workspace.run(name))
    job = next((one for one in reversed(jobs) if (one.kind, one.name) == ("train", name)), None)
    try:
        record = run.record() if run.record_path.is_file() else None
        entries, samples = run.metrics(), run.samples()
    except (PtuneError, OSError):  # being written, or damaged: shown as far as it is known
        record, entries, samples = None, [], []
    resumable = record is not None and record.status in ("running", "interrupted")
    return Course(name, entries, record, job, resumable, _since(run.metrics_path, job), samples)


def _since(journal: Path, job: Job | None) -> bool:
    """Whether a journal was written to since a job's start; True without a job."""
    if job is None or job.started is None:
        return True
    try:
        return journal.stat().st_mtime >= job.started
    except OSError:
        return False


def names(workspace: Workspace, jobs: Jobs | Sequence[Job]) -> list[str]:
    """The names of all runs, those that a job is to make included; the newest first."""
    every = jobs.all() if isinstance(jobs, Jobs) else jobs
    waiting = [job.name for job in reversed(every) if job.kind == "train"]
    return list(dict.fromkeys([*waiting, *workspace.run_names()]))


def peak_bytes(folder: Path, job: Job | None) -> int | None:
    """The most memory that a job's command has taken: while it runs as the system tells it, afterwards as its runner wrote
    down. folder: of all jobs. None if not known."""
    if job is None:
        return None
    try:
        if job.state == "running":
            pid = read_json(folder / job.id / "child.json")["pid"]
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
            line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        told = read_json(folder / job.id / "ended.json").get("peak_bytes")
        return told if isinstance(told, int) and told > 0 else None
    except (PtuneError, OSError, StopIteration, KeyError, ValueError):
        return None
