"""A folder that is not what a command needs: the error names the command that makes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.config.read_recipe import read_recipe
from ptune.errors import FormatError, RecipeError
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run


def a_folder(place: Path, *files: str) -> Path:
    place.mkdir()
    for name in files:
        (place / name).write_text("{}")
    return place


def test_a_run_where_a_bundle_is_needed(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "mine", "run.json")
    with pytest.raises(FormatError, match=f"it is a run; `ptune export {folder}`"):
        Bundle.open(folder)


def test_a_bundle_where_a_run_is_needed(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "mine", "manifest.json")
    with pytest.raises(FormatError, match=f"it is a bundle; `ptune serve {folder}`"):
        Run.open(folder)


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "mine")
    with pytest.raises(FormatError, match="`ptune export RUN`"):
        Bundle.open(folder)
    with pytest.raises(FormatError, match="`ptune train RECIPE`"):
        Run.open(folder)


def test_a_run_that_has_not_finished_says_how_to_go_on(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "mine", "recipe.yaml")
    base = {"source": "x", "hash": "0" * 64, "architecture": "x", "parameters": 1}
    record = {"format": 1, "status": "interrupted", "created": "2026-01-01T00:00:00+00:00", "base": base}
    (folder / "run.json").write_text(json.dumps(record))
    command = f"`ptune train {folder}/recipe.yaml --out {folder} --resume`"
    with pytest.raises(FormatError, match=command):
        Run.open(folder).finished_record()


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="`ptune init` writes one"):
        read_recipe("configs/none.py")
