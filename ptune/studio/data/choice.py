"""What was chosen on the tab Data, in a file, so that the next tab, a reload and another studio know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from ptune.begin.starts import Word
from ptune.errors import FormatError
from ptune.formats.whole_write import read_json, write_json
from ptune.studio.workspace import Workspace


@dataclass(frozen=True)
class Choice:
    """Data, what it is for, and which of its columns are which. files: as a recipe in the workspace names them.

    header: all columns of the first file. guessed: the task's columns that nobody has looked at yet.
    """

    files: tuple[str, ...] = ()
    task: Word | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()


def save(workspace: Workspace, choice: Choice) -> None:
    """Raises: PtuneError if the disk is full."""
    value = {
        "files": list(choice.files), "task": choice.task, "columns": dict(choice.columns),
        "header": list(choice.header), "guessed": list(choice.guessed),
    }  # fmt: skip
    write_json(_place(workspace), value)


def load(workspace: Workspace) -> Choice:
    """What was chosen last; of a damaged file nothing."""
    try:
        value = read_json(_place(workspace))
        task = value["task"]
        columns = {str(column): str(name) for column, name in value["columns"].items()}
        files, header, guessed = (
            tuple(map(str, value.get(name, ()))) for name in ("files", "header", "guessed")
        )
        return Choice(files, task if task in get_args(Word) else None, columns, header, guessed)
    except (FormatError, KeyError, TypeError, AttributeError):
        return Choice()


def _place(workspace: Workspace) -> Path:
    return workspace.own / "chosen.json"
