"""The runs that can be judged and shipped."""

from __future__ import annotations

from ptune.errors import PtuneError
from ptune.formats.whole_write import read_json
from ptune.studio.workspace import Workspace

FINISHED = ("finished", "stopped early")


def finished_runs(workspace: Workspace) -> list[str]:
    """Names of the runs whose training has ended, the newest first."""
    return [name for name in workspace.run_names() if _is_finished(workspace, name)]


def _is_finished(workspace: Workspace, name: str) -> bool:
    try:
        return read_json(workspace.run(name) / "run.json").get("status") in FINISHED
    except PtuneError:  # being written, damaged, or of a name that only a hand gave
        return False
