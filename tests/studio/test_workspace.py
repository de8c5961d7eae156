"""Where a workspace's files are, and what they may be called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import PtuneError, UsageError
from ptune.studio.workspace import LONGEST_NAME, Workspace, checked


def test_it_makes_its_folders_and_makes_them_once(tmp_path: Path) -> None:
    for _ in range(2):
        workspace = Workspace(tmp_path / "new" / "place")
    assert sorted(path.name for path in workspace.folder.iterdir()) == [
        ".studio", "bundles", "data", "recipes", "runs",
    ]  # fmt: skip
    assert workspace.recipe("mine") == tmp_path / "new" / "place" / "recipes" / "mine.yaml"


def test_a_file_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, and the studio works in a folder"):
        Workspace(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PtuneError, match="cannot write"):
        Workspace(tmp_path / "inner")


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../up", "a/b", "/etc/passwd", ".hidden", "-rf", "a\nb", "a\0b", "naïve", "x" * (LONGEST_NAME + 1)],
)  # fmt: skip
def test_what_could_name_another_place_is_no_name(name: str) -> None:
    with pytest.raises(UsageError):
        checked(name)


@given(st.text(max_size=30))
def test_a_name_is_refused_or_stays_below_its_folder(text: str) -> None:
    try:
        name = checked(text)
    except UsageError:
        return
    assert os.path.basename(name) == name
    assert os.path.normpath(os.path.join("/runs", name)) == f"/runs/{name}"


def test_names_are_listed_the_newest_first(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for at, name in enumerate(("old", "new")):
        path = workspace.recipe(name)
        path.write_text("")
        os.utime(path, (at, at))
    assert workspace.recipe_names() == ["new", "old"]
    (workspace.run("half")).mkdir()
    assert workspace.run_names() == [], "a folder without run.json is no run"


def test_paths_are_shown_as_commands_name_them(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.shown(workspace.run("mine")) == "runs/mine"
    assert workspace.shown(Path("/elsewhere/file")) == "/elsewhere/file"
