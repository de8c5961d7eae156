"""Checks of a run folder before training starts, and the files written into it first."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ptune.config.recipe import Recipe
from ptune.errors import BackboneError, DataError, FormatError, RecipeError
from ptune.formats.file_lock import take_lock
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import disk_errors, read_json, write_json


def check_folder(run: Run, recipe: Recipe, resume: bool) -> None:
    """Raises: FormatError if the folder is in use or is not a run; RecipeError if it belongs to another recipe."""
    if not run.folder.exists() or (run.folder.is_dir() and _only(run, {run.rows_path.name})):
        return
    if resume and _died_at_birth(run):
        return
    if not resume:
        raise FormatError(
            f"{run.folder} is not empty: continue the run in it with --resume (in Python: resume=True), choose another"
            " --out, or remove it"
        )
    Run.open(run.folder)
    before = Recipe.load(run.recipe_path).document()
    changed = [
        name
        for name in _differences(before, recipe.document())
        if not name.startswith(("evaluate.", "plan."))  # these do not affect the weights
    ]
    if changed:
        raise RecipeError(
            f"{run.folder} was started with another recipe (different: {', '.join(changed)}): "
            "resume with the same one, or choose another --out"
        )


def _died_at_birth(run: Run) -> bool:
    """Whether the folder holds only files that `begin` writes before run.json, some of them perhaps incomplete."""
    before = {run.recipe_path.name, run.data_path.name, run.codec_path.name, run.rows_path.name}
    return run.folder.is_dir() and _only(run, before)


def _only(run: Run, names: set[str]) -> bool:
    """Whether the folder holds only these files, complete or incomplete."""
    return all(path.name in names or _unfinished(path) for path in run.folder.iterdir())


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Locks the run folder for the block. Raises: FormatError if another process is training into it."""
    with disk_errors(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        held = os.open(run.folder, os.O_RDONLY)  # locks the folder itself, so no lock file is left behind
    try:
        if not take_lock(held):
            raise FormatError(f"another process is training into {run.folder}: wait for it or stop it")
        yield
    finally:
        os.close(held)
        with contextlib.suppress(OSError):
            run.folder.rmdir()  # succeeds only if it is still empty


def sweep(run: Run) -> None:
    """Removes incomplete files of a killed process: see `ptune.formats.whole_write`."""
    for path in [path for path in run.folder.rglob(".*") if _unfinished(path)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _unfinished(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix in (".part", ".old")


def check_same_inputs(run: Run, record: RunRecord, data: dict[str, Any]) -> None:
    """Checks that a resumed run has the backbone and data that it began with. Raises: BackboneError or DataError."""
    if run.record_path.is_file() and run.record().base.hash != record.base.hash:
        raise BackboneError(
            f"{record.base.source} no longer holds the weights that {run.folder} was started on"
        )
    if run.data_path.is_file():
        check_same_data(run, data)


def check_same_data(run: Run, data: dict[str, Any]) -> None:
    """Compares a data set's summary with the one that the run began with. Raises: DataError that names the files."""
    before = read_json(run.data_path)
    files = _hashes(before)
    changed = [path for path, sha256 in _hashes(data).items() if files.get(path) != sha256]
    if changed:
        raise DataError(
            f"the data has changed since {run.folder} was started; restore the contents of {', '.join(changed)}, "
            "or train a new run"
        )
    if before.get("images") != data.get("images"):
        raise DataError(
            f"the images that the data names have changed since {run.folder} was started; restore them, or train a new run"
        )
    tokens = _tokens(before)
    recoded = [split for split, sha256 in _tokens(data).items() if tokens.get(split, sha256) != sha256]
    if recoded:
        raise DataError(
            f"the files are the same, but the {', '.join(recoded)} examples made from them are not those that {run.folder} "
            "was started on: the template, the tokenizer or ptune has changed (or the template writes the date); "
            "restore it, or train a new run"
        )


def begin(
    run: Run, record: RunRecord, recipe: Recipe, data: dict[str, Any], save_codec: Callable[[Path], None]
) -> None:
    """Writes everything that is known before the first step. run.json comes last: it makes the folder a run."""
    recipe.save(run.recipe_path)
    write_json(run.data_path, data)
    save_codec(run.codec_path)
    run.write_record(record)


def _hashes(data: dict[str, Any]) -> dict[str, str]:
    """Path -> SHA-256."""
    return {file["path"]: file["sha256"] for file in data["files"]}


def _tokens(data: dict[str, Any]) -> dict[str, str]:
    """Split -> SHA-256 of its tokens and targets."""
    splits = [split for split in ("train", "validation", "test") if data.get(split, {}).get("examples")]
    return {split: data[split]["sha256"] for split in splits}


def _differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields that differ."""
    names = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            names += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            names.append(prefix + name)
    return names
