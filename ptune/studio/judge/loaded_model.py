"""A run's model in a process of its own, `ptune ask RUN --lines`, which answers questions until nobody has asked for long.

At most one at a time. It ends by itself when it is idle, and with the studio: its standard input ends then.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import IO, Any

from ptune.child import module_command
from ptune.errors import PtuneError, UsageError
from ptune.evaluation.asking.question import SIDES, Question
from ptune.studio.jobs.log import last_error
from ptune.studio.jobs.processes import lower_priority
from ptune.studio.workspace import Workspace

IDLE_S = 300.0
LOADS_WITHIN_S = 900.0  # a 7B from a slow disk, and the base of an image model twice
SPARE_S = 30.0  # for a step that is slow, beyond what a side may write


class NoAnswerError(PtuneError):
    """The process ended without an answer."""


@dataclass(frozen=True)
class _Child:
    """A process that has a run's model, or loads it. run: its name and when it was written."""

    run: tuple[str, float]
    process: subprocess.Popen[str]
    complaints: IO[str]


class LoadedModel:
    """The one model that a studio has loaded."""

    def __init__(self, workspace: Workspace, idle_s: float = IDLE_S) -> None:
        self._workspace, self._idle_s = workspace, idle_s
        self._child: _Child | None = None
        self._busy = threading.Lock()
        self._stopped = False  # while the question that is being answered waited for its process, too

    @contextlib.contextmanager
    def asked(self, name: str, question: Question) -> Generator[Iterator[dict[str, Any]]]:
        """For the block, what comes: {"ready": true} when the model is loaded, then what each side says.

        From the block's beginning `stop` ends it. Raises: UsageError if another question is being answered; what comes raises
        NoAnswerError with the reason, as for one that was stopped.
        """
        if not self._busy.acquire(blocking=False):
            raise UsageError("another question is being answered: wait for its answer, or stop it")
        self._stopped = False
        try:
            with contextlib.closing(self._answers(name, question)) as answers:
                yield answers
        finally:
            self._busy.release()

    def stop(self) -> None:
        """Ends the process, and with it what is being answered; the next question loads the model again."""
        self._stopped = True
        child = self._child
        if child is not None:
            child.process.kill()
            child.process.wait()

    @property
    def busy(self) -> bool:
        """Whether a question is being answered."""
        return self._busy.locked()

    @property
    def process(self) -> int | None:
        """The number of the process; None if none runs."""
        child = self._child
        return None if child is None or child.process.poll() is not None else child.process.pid

    def _answers(self, name: str, question: Question) -> Generator[dict[str, Any]]:
        child, fresh = self._of(name)
        if self._stopped:
            child.process.kill()
        limit_s = (LOADS_WITHIN_S if fresh else 0.0) + len(SIDES) * (question.max_s + SPARE_S)
        too_late = threading.Timer(limit_s, child.process.kill)
        too_late.daemon = True
        too_late.start()
        ended = heard = False
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and its last words say why
                _write(child, question)
            for said in _lines(child):
                if "problem" in said:
                    ended = True
                    raise NoAnswerError(said["problem"])
                if "done" in said:
                    ended = True
                    return
                heard = True
                yield said
            ended = True
            if child.process.wait() == 0 and not (fresh or heard):  # it was idle for too long just now
                yield from self._answers(name, question)
                return
            raise NoAnswerError(self._last_words(child))
        finally:
            too_late.cancel()
            if not ended:  # nobody reads the rest, which must not be taken for the next answer
                child.process.kill()
                child.process.wait()

    def _of(self, name: str) -> tuple[_Child, bool]:
        """The process that has a run's model, and whether it was just begun; one of another run is ended."""
        folder = self._workspace.run(name)
        try:
            run = (name, (folder / "run.json").stat().st_mtime)
        except OSError:
            raise UsageError(f"there is no run {name}") from None
        child = self._child
        if child is not None and child.run == run and child.process.poll() is None:
            return child, False
        if child is not None:
            _end(child)
        complaints = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = (
            "ask", self._workspace.shown(folder), "--lines", "--idle-s", f"{self._idle_s:g}",
        )  # fmt: skip
        process = subprocess.Popen(
            module_command("ptune", *command),
            cwd=self._workspace.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        lower_priority(process.pid)
        self._child = _Child(run, process, complaints)
        return self._child, True

    def _last_words(self, child: _Child) -> str:
        code = child.process.wait()
        if code < 0:
            return "stopped before it had answered: the next question loads the model again"
        child.complaints.seek(0)
        return last_error(child.complaints.read())


def _write(child: _Child, question: Question) -> None:
    assert child.process.stdin is not None
    child.process.stdin.write(json.dumps(question.described()) + "\n")
    child.process.stdin.flush()


def _lines(child: _Child) -> Iterator[dict[str, Any]]:
    """What the process says; what is no JSON object is left out."""
    assert child.process.stdout is not None
    for line in child.process.stdout:
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict):
                yield said


def _end(child: _Child) -> None:
    child.process.kill()
    child.process.wait()
    for stream in (child.process.stdin, child.process.stdout, child.complaints):
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()
