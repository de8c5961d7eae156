"""Asks a `ptune` command for its answer as JSON, in a process of its own, which may import what it likes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ptune.child import module_command
from ptune.studio.jobs.log import problem_in
from ptune.studio.jobs.processes import lower_priority
from ptune.studio.workspace import Workspace

GIVE_UP_S = 1800.0


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
        lower_priority(child.pid)
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
