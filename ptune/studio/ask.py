"""Asks a `ptune` command for its answer as JSON, in a process of its own, which may import what it likes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ptune.child import module_command
from ptune.studio.workspace import Workspace

GIVE_UP_S = 1800.0
NICE = 10


@dataclass(frozen=True)
class Answer:
    """What a command said: a document, or a sentence on why there is none."""

    document: dict[str, Any] | None
    problem: str = ""


def ask(workspace: Workspace, command: Sequence[str]) -> Answer:
    """Runs `ptune … --json` in the workspace's folder. A document counts whatever the exit code: doctor's is 1 for errors."""
    words = module_command("ptune", *command[1:])
    with subprocess.Popen(
        words,
        cwd=workspace.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        _nicer(child.pid)
        try:
            told, complained = child.communicate(timeout=GIVE_UP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return Answer(None, f"{command[0]} {command[1]} gave no answer in {GIVE_UP_S / 60:.0f} minutes.")
    return answer_in(told, complained)


def answer_in(told: str, complained: str) -> Answer:
    """The answer in what a command wrote to standard output and standard error."""
    try:
        document = json.loads(told)
    except ValueError:
        document = None
    if isinstance(document, dict):
        return Answer(document)
    return Answer(None, problem_in(complained) or told.strip() or "The command said nothing.")


def problem_in(log: str) -> str:
    """Why a command failed, in the words of its log's last error; empty if it names none."""
    lines = [line for line in log.strip().splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    if errors:
        return "\n".join(lines[errors[-1] :]).removeprefix("error: ")
    return lines[-1].strip() if lines else ""


def _nicer(pid: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
    except OSError:
        return
