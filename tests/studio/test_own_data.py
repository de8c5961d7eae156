"""Files that are dropped on the page: copied once, never over another."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune.begin.starts import STARTS, Word
from ptune.config.read_recipe import read_recipe
from ptune.studio.data import own_data
from ptune.studio.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "place")


def _file(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_is_copied_and_named_as_a_recipe_names_it(workspace: Workspace, tmp_path: Path) -> None:
    first = own_data.take_in(workspace, [_file(tmp_path / "a", "rows.csv", "one")])
    again = own_data.take_in(workspace, [_file(tmp_path / "b", "rows.csv", "one")])
    other = own_data.take_in(workspace, [_file(tmp_path / "c", "rows.csv", "two")])
    assert (first, again, other) == (["data/rows.csv"], ["data/rows.csv"], ["data/rows-2.csv"])
    assert [(workspace.folder / name).read_text() for name in first + other] == ["one", "two"]
    assert sorted(own_data.names(workspace)) == ["data/rows-2.csv", "data/rows.csv"]


@pytest.mark.parametrize("name", ["..csv", ".hidden.jsonl", "a b.csv", "ü%?.csv", "-rf.csv"])
def test_odd_names_stay_below_the_folder(workspace: Workspace, tmp_path: Path, name: str) -> None:
    [named] = own_data.take_in(workspace, [_file(tmp_path / "a", name, "x")])
    path = workspace.folder / named
    assert path.parent == workspace.data
    assert not path.name.startswith((".", "-"))
    assert own_data.names(workspace) == [named]


def test_names_of_recipes_are_from_the_folder(workspace: Workspace) -> None:
    assert own_data.place(workspace, "data/a.csv") == workspace.data / "a.csv"
    assert own_data.place(workspace, "/else/a.csv") == Path("/else/a.csv")
    assert own_data.place(workspace, "hub:owner/name") == Path("hub:owner/name")


@pytest.mark.parametrize("word", STARTS)
def test_columns_that_are_asked_for_are_the_tasks(word: Word) -> None:
    asked = own_data.columns_asked(word)
    assert 1 <= len(asked) <= own_data.MOST_COLUMNS
    read_recipe(STARTS[word].recipe).task.with_columns({column: f"my {column}" for column in asked})
