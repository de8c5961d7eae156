"""Files that are dropped on the page: copied once, never over another."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune.begin.starts import STARTS, Word
from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Data, Recipe
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


@pytest.mark.parametrize(
    "name", ["plain", "caf\u00e9 \u4f60", "it's mine", 'a "b" # c', "words with spaces between them " * 4]
)
@pytest.mark.parametrize("where", ["recipes/r.yaml", "runs/r/recipe.yaml"])
def test_a_file_is_used_by_the_recipe_or_run_that_names_it(tmp_path: Path, name: str, where: str) -> None:
    """YAML quotes some names and breaks long ones at a space."""
    workspace = Workspace(tmp_path)
    used, other = (workspace.data / f"{one}.edited.jsonl" for one in (name.strip(), "other"))
    assert not own_data.is_used(workspace, used)
    recipe = Recipe(data=Data(files=(Path(workspace.shown(used)),)))
    (tmp_path / where).parent.mkdir(exist_ok=True)
    recipe.save(tmp_path / where)
    assert own_data.is_used(workspace, used)
    assert not own_data.is_used(workspace, other)
    (tmp_path / where).write_text(f"no recipe: {workspace.shown(other)}\n", encoding="utf-8")
    assert own_data.is_used(workspace, other)
