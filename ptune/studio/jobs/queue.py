"""The queue of jobs on disk: what was asked for, what runs, and how it ended. Torch-free, and free of the page.

    .studio/jobs/00001/   job.json      what to run, written with the folder
                          runner.json   the runner: its process; whoever writes this file runs the job
                          child.json    the command: its process
                          log.txt       all that it says
                          stop.json     somebody asked for its end
                          ended.json    its return code, written by the runner

A job's state follows from these files and from whether the processes that they name run. So any studio on the folder, or
none, may come and go: a runner starts the next job itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ptune.child import module_command
from ptune.errors import FormatError, UsageError
from ptune.formats.file_lock import take_lock
from ptune.formats.whole_write import disk_errors, read_json, write_json
from ptune.studio.jobs.processes import runs
from ptune.studio.workspace import Workspace

State: TypeAlias = Literal["waiting", "running", "done", "failed", "stopped"]
BESIDE = ("serve",)
"""Kinds of jobs that run beside the queue."""
INTERRUPTED = (130, -signal.SIGINT)
STARTS_WITHIN_S = 30.0
LOG_BYTES = 200_000  # of a log's end are read


@dataclass(frozen=True)
class Job:
    """A command, and what has become of it. Times are seconds since 1970."""

    id: str
    kind: str  # "train", "evaluate", "export", "serve", "generate" …
    name: str  # of the run or the bundle that it is for
    command: tuple[str, ...]  # as a user would type it in the workspace's folder
    state: State
    added: float
    started: float | None = None
    ended: float | None = None
    returncode: int | None = None  # None also of a job that was killed with its runner
    stopping: bool = False  # it runs, and its end was asked for


class Jobs:
    """The jobs of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._started: list[subprocess.Popen[bytes]] = []  # asked after, so that none stays a zombie

    def add(self, kind: str, name: str, command: Sequence[str]) -> Job:
        """Appends a job, and starts it if nothing is before it. Raises: PtuneError if the disk is full."""
        folder = self.workspace.jobs
        with disk_errors(folder):
            part = Path(tempfile.mkdtemp(prefix=".", dir=folder))
            asked = {"kind": kind, "name": name, "command": list(command), "added": time.time()}
            write_json(part / "job.json", asked)
            job_id = _numbered(part, folder)
        self.advance()
        return self.get(job_id)

    def all(self) -> list[Job]:
        """All jobs, in the order in which they were added."""
        found = []
        for folder in sorted(path for path in self.workspace.jobs.iterdir() if path.name.isdecimal()):
            with contextlib.suppress(FormatError):  # removed meanwhile, or not ours
                found.append(_read(folder))
        return found

    def get(self, job_id: str) -> Job:
        """One job. Raises: UsageError if there is none."""
        folder = self._folder(job_id)
        try:
            return _read(folder)
        except FormatError:
            raise UsageError(f"there is no job {job_id!r}") from None

    def newest(self, kind: str, name: str) -> Job | None:
        """The newest job of a kind for a run or a bundle."""
        return next((job for job in reversed(self.all()) if (job.kind, job.name) == (kind, name)), None)

    def stop(self, job_id: str) -> None:
        """Asks for a job's end as Ctrl-C does: a training ends after its step and can be resumed; asked again, it ends at
        once. A job that waits is not begun. Raises: UsageError if there is none."""
        with self._queue():
            job = self.get(job_id)
            if job.state not in ("waiting", "running"):
                return
            write_json(self._folder(job_id) / "stop.json", {"asked": time.time()})
            if job.state == "running":
                _interrupt(self._folder(job_id))

    def remove(self, job_id: str) -> None:
        """Forgets a job that has ended. Raises: UsageError if it has not, or there is none."""
        job = self.get(job_id)
        if job.state in ("waiting", "running"):
            raise UsageError(f"job {job_id} of {job.name} is {job.state}: stop it first")
        shutil.rmtree(self._folder(job_id), ignore_errors=True)

    def log(self, job_id: str) -> str:
        """The end of what a job has said; empty before its start. Raises: UsageError if there is no such job."""
        path = self._folder(self.get(job_id).id) / "log.txt"
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def advance(self) -> None:
        """Starts what may start: the next of the queue, if none of it runs, and all that runs beside it."""
        self._started = [one for one in self._started if one.poll() is None]
        with self._queue():
            jobs = self.all()
            busy = any(job.state == "running" and job.kind not in BESIDE for job in jobs)
            for job in jobs:
                if job.state != "waiting" or (busy and job.kind not in BESIDE):
                    continue
                busy = busy or job.kind not in BESIDE
                self._start(self._folder(job.id))

    def _start(self, folder: Path) -> None:
        """Starts a job's runner, which goes on when we are gone, and waits until it has signed for the job."""
        runner = subprocess.Popen(
            module_command("ptune.studio.jobs.runner", str(self.workspace.folder), folder.name),
            cwd=self.workspace.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._started.append(runner)
        give_up_s = time.monotonic() + STARTS_WITHIN_S
        while not (folder / "runner.json").exists() and runner.poll() is None:
            if time.monotonic() > give_up_s:
                return
            time.sleep(0.01)

    def _folder(self, job_id: str) -> Path:
        if not (job_id.isascii() and job_id.isdecimal()):
            raise UsageError(f"there is no job {job_id!r}")
        return self.workspace.jobs / job_id

    @contextlib.contextmanager
    def _queue(self) -> Iterator[None]:
        """Only one process starts or stops jobs at a time; it has the lock for the block."""
        with disk_errors(self.workspace.own), (self.workspace.own / "queue.lock").open("a") as held:
            while not take_lock(held):
                time.sleep(0.01)
            yield


def _numbered(part: Path, folder: Path) -> str:
    """Gives a new folder the next number; another studio may be quicker."""
    numbers = (int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    number = max(numbers, default=0) + 1
    while True:
        try:
            part.rename(folder / f"{number:05d}")
            return f"{number:05d}"
        except OSError:
            if not (folder / f"{number:05d}").exists():
                raise
            number += 1


def _read(folder: Path) -> Job:
    """A job, as its files tell it. Raises: FormatError."""
    ended = _optional(folder / "ended.json")  # first: what ends between two reads has ended
    asked, runner = read_json(folder / "job.json"), _optional(folder / "runner.json")
    stop = (folder / "stop.json").exists()
    try:
        job = Job(
            folder.name, asked["kind"], asked["name"], tuple(asked["command"]), "waiting", asked["added"]
        )
    except KeyError as error:
        raise FormatError(f"{folder / 'job.json'} lacks {error}") from None
    if runner is None and ended is None:
        return _with(job, state="stopped" if stop else "waiting")
    started = None if runner is None else runner.get("started")
    if ended is not None:
        code = ended.get("returncode")
        state = _ending(job.kind, code, stop)
        return _with(job, state=state, started=started, ended=ended.get("ended"), returncode=code)
    if _alive(folder):
        return _with(job, state="running", started=started, stopping=stop)
    if (folder / "ended.json").exists():  # written since we looked
        return _read(folder)
    return _with(job, state="stopped" if stop else "failed", started=started, ended=_last_sign(folder))


def _with(job: Job, **changes: Any) -> Job:
    return Job(**{**job.__dict__, **changes})


def _ending(kind: str, code: int | None, stop: bool) -> State:
    if code in INTERRUPTED or (stop and (code != 0 or kind in BESIDE)):
        return "stopped"
    return "done" if code == 0 else "failed"


def _optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None


def _alive(folder: Path) -> bool:
    """Whether the job's command or its runner runs."""
    return any(_running(folder / f"{name}.json") is not None for name in ("child", "runner"))


def _running(path: Path) -> int | None:
    """The number of the process that a file names; None if it runs no more, or there is no such file."""
    process = _optional(path) or {}
    pid, since = process.get("pid"), process.get("began")
    return pid if isinstance(pid, int) and runs(pid, since) else None


def _last_sign(folder: Path) -> float | None:
    """When a job that nobody saw end was last heard of."""
    signs = [path.stat().st_mtime for path in folder.glob("*.*") if path.name != "stop.json"]
    return max(signs, default=None)


def _interrupt(folder: Path) -> None:
    """Sends SIGINT to the job's command and what it has started."""
    child = _running(folder / "child.json")
    if child is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGINT)
