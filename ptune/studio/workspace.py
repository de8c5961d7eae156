"""The folder that the studio works in: where its data, recipes, runs and bundles lie, and what they may be called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ptune.errors import UsageError
from ptune.formats.whole_write import disk_errors

LONGEST_NAME = 100
_NAME = re.compile(r"\w[\w.\- ]*", re.ASCII)


class Workspace:
    """A folder with data/, recipes/, runs/, bundles/ and .studio/. A run and a bundle are called as their recipe is."""

    def __init__(self, folder: Path) -> None:
        """Makes the folders that are missing. Raises: UsageError if `folder` is a file; PtuneError if it cannot be written."""
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.recipes = self.folder / "recipes"
        self.runs = self.folder / "runs"
        self.bundles = self.folder / "bundles"
        self.own = self.folder / ".studio"
        self.jobs = self.own / "jobs"
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(
                f"{folder} is a file, and the studio works in a folder: name another with --folder"
            )
        with disk_errors(self.folder):
            for inner in (self.data, self.recipes, self.runs, self.bundles, self.jobs):
                inner.mkdir(parents=True, exist_ok=True)

    def recipe(self, name: str) -> Path:
        """The file of a recipe. Raises: UsageError for what is no name."""
        return self.recipes / f"{checked(name)}.yaml"

    def run(self, name: str) -> Path:
        """The folder of a run. Raises: UsageError."""
        return self.runs / checked(name)

    def bundle(self, name: str) -> Path:
        """The folder of a bundle. Raises: UsageError."""
        return self.bundles / checked(name)

    def recipe_names(self) -> list[str]:
        """Names of the recipes, the newest first."""
        return [path.stem for path in _newest(self.recipes.glob("*.yaml"))]

    def run_names(self) -> list[str]:
        """Names of the runs, the newest first."""
        return [path.parent.name for path in _newest(self.runs.glob("*/run.json"))]

    def bundle_names(self) -> list[str]:
        """Names of the bundles, the newest first."""
        return [path.parent.name for path in _newest(self.bundles.glob("*/manifest.json"))]

    def shown(self, path: Path) -> str:
        """A path as the commands of the studio name it: from the workspace's folder, if it lies below it."""
        try:
            return str(path.relative_to(self.folder))
        except ValueError:
            return str(path)


def checked(name: str) -> str:
    """The name without spaces around it. Raises: UsageError if it could name another folder, or none."""
    plain = name.strip()
    if len(plain) > LONGEST_NAME:
        raise UsageError(f"the name {plain[:20]!r}… is too long: {LONGEST_NAME} characters are the most")
    if not _NAME.fullmatch(plain):
        raise UsageError(
            f"{name!r} cannot be a name: take letters, digits, - and _, with a letter or digit first"
        )
    return plain


def _newest(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        try:
            found.append((-path.stat().st_mtime, path.name, path))
        except OSError:  # gone meanwhile
            continue
    return [path for _, _, path in sorted(found)]
