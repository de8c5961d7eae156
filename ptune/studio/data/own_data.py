"""The data of a workspace: what was dropped on the page, what is there to choose, and which columns a task asks for."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from ptune.begin.starts import STARTS, Word
from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Recipe
from ptune.data.readers.hub import PREFIX
from ptune.errors import PtuneError
from ptune.formats.whole_write import disk_errors, whole_file
from ptune.studio.workspace import Workspace

MOST_COLUMNS = 4
_ASKED: Mapping[Word, tuple[str, ...]] = {
    "classify": ("text", "label"),
    "chat": ("messages", "prompt", "completion", "system"),
    "preferences": ("prompt", "chosen", "rejected", "system"),
    "rewards": ("prompt", "chosen", "rejected", "margin"),
    "thumbs": ("prompt", "completion", "label", "system"),
}
"""Of tasks with many columns those to ask for; the others are options of the recipe."""


def take_in(workspace: Workspace, uploaded: Iterable[Path]) -> list[str]:
    """Copies files into data/, and returns them as recipes name them. A file of another content that is called the same stays.

    Raises: PtuneError if the disk is full.
    """
    return [workspace.shown(_copied(workspace, path)) for path in uploaded]


def names(workspace: Workspace) -> list[str]:
    """Files and folders in data/, the newest first, as recipes name them."""
    found = [path for path in workspace.data.iterdir() if not path.name.startswith(".")]
    found.sort(key=lambda path: (-path.stat().st_mtime, path.name))
    return [workspace.shown(path) for path in found]


def place(workspace: Workspace, named: str) -> Path:
    """Where a file is that a recipe names: paths are from the workspace's folder."""
    return (
        Path(named) if named.startswith((PREFIX, "sample:")) else workspace.folder / Path(named).expanduser()
    )


def is_used(workspace: Workspace, path: Path) -> bool:
    """Whether a recipe or a run names a file, whose bytes it may know."""
    recipes = [*workspace.recipes.glob("*.yaml"), *workspace.runs.glob("*/recipe.yaml")]
    return any(_names(workspace, recipe, path) for recipe in recipes)


def _names(workspace: Workspace, recipe: Path, path: Path) -> bool:
    try:
        data = Recipe.load(recipe).data
    except PtuneError:  # written by another version, or by hand and not yet right
        return workspace.shown(path) in recipe.read_text(encoding="utf-8", errors="replace")
    files = (*data.files, *data.validation, *data.test)
    return path.resolve() in {place(workspace, str(file)).resolve() for file in files}


@cache
def columns_asked(word: Word) -> tuple[str, ...]:
    """The columns to ask for, of files whose columns have other names than usual."""
    known = tuple(type(read_recipe(STARTS[word].recipe).task.columns).model_fields)
    return _ASKED.get(word, known[:MOST_COLUMNS])


def _copied(workspace: Workspace, path: Path) -> Path:
    plain = re.sub(r"[^\w.\- ]", "_", path.name).lstrip(".- ") or "data"
    with disk_errors(workspace.data):
        for at in range(1, 10_000):
            name = plain if at == 1 else f"{Path(plain).stem}-{at}{Path(plain).suffix}"
            target = workspace.data / name
            if target.is_file() and filecmp.cmp(path, target, shallow=False):
                target.touch()  # it was chosen now
                return target
            if not target.exists():
                with whole_file(target) as part:
                    shutil.copyfile(path, part)
                return target
    raise AssertionError("ten thousand files are called the same")
