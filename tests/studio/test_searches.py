"""Searches on the tab Run: the command for what was asked, and the best trial's recipe as one of the workspace's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ptune.config.recipe import Data, Recipe, Train
from ptune.errors import RecipeError, UsageError
from ptune.formats.whole_write import write_json
from ptune.methods.freeze import FreezeExceptLast
from ptune.studio.run import searches
from ptune.studio.workspace import Workspace
from ptune.tuning.space import parse

SPACE = "train.lr=log:1e-4..1e-2 method.r=4|8"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "studio")
    Recipe(name="mine", data=Data(files=(Path("data/rows.csv"),), test=(Path("data/test.csv"),))).save(
        made.recipe("mine")
    )
    return made


def searched(workspace: Workspace, best: Recipe | None, trials: list[dict[str, Any]]) -> None:
    """A search as `ptune tune` leaves it."""
    folder = workspace.run("mine-tune")
    folder.mkdir(parents=True, exist_ok=True)
    finished = [one for one in trials if one["value"] is not None]
    least = min(finished, key=lambda one: one["value"], default=None)
    write_json(
        folder / "tune.json",
        {
            "metric": "validation_loss", "direction": "minimize", "space": {"train.lr": "log:0.0001..0.01"}, "trials": trials,
            "best": None if least is None else {"trial": least["number"]},
        },
    )  # fmt: skip
    if best is not None:
        best.save(folder / "best.yaml")


def trial(number: int, value: float | None, lr: float) -> dict[str, Any]:
    return {"number": number, "state": "finished" if value else "pruned", "params": {"train.lr": lr}, "value": value,
            "last": value or 9.0, "steps": 3, "seconds": 2.0, "why": "<i>"}  # fmt: skip


def test_the_command_is_what_was_asked(workspace: Workspace) -> None:
    command = searches.command(workspace, "mine", SPACE, 7, "validation_loss")
    assert command == (
        "ptune", "tune", "recipes/mine.yaml", "--trials", "7", "--out", "runs/mine-tune", "--space", *SPACE.split()
    )  # fmt: skip
    right = searches.command(workspace, "mine", SPACE, 7.0, "validation_accuracy")
    assert right[5:7] == ("--metric", "validation_accuracy")


@pytest.mark.parametrize(
    ("words", "trials", "error", "told"),
    [
        ("", 7, UsageError, "--space is empty"),
        ("train.lr=log:0..1", 7, UsageError, "must begin above 0"),
        ("train.batch_size=0..4", 7, RecipeError, "batch_size"),
        ("train.lr='1", 7, UsageError, "cannot be read"),
        (SPACE, 0, UsageError, "1 or more"),
        (SPACE, None, UsageError, "1 or more"),
    ],
)
def test_what_cannot_be_searched_is_a_sentence(
    workspace: Workspace, words: str, trials: int | None, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        searches.command(workspace, "mine", words, trials, "validation_loss")


@pytest.mark.parametrize("changes", [{}, {"method": FreezeExceptLast()}, {"train": Train(lr=7e-6)}])
def test_what_is_proposed_can_be_searched(workspace: Workspace, changes: dict[str, Any]) -> None:
    recipe = Recipe(name="other", **changes)
    recipe.save(workspace.recipe("other"))
    words = searches.proposed(recipe)
    assert "train.lr" in parse(words.split())
    assert ("method.r" in words) == (not isinstance(recipe.method, FreezeExceptLast))
    searches.command(workspace, "other", words, 2, "validation_loss")


def test_the_best_recipe_is_taken_once_and_replaces_nothing(workspace: Workspace) -> None:
    best = Recipe.load(workspace.recipe("mine"))
    best = best.model_copy(update={"train": best.train.model_copy(update={"lr": 2e-3})})
    searched(workspace, best, [trial(0, 2.0, 1e-3), trial(1, 1.0, 2e-3)])
    assert searches.take_best(workspace, "mine-tune") == "mine-best"
    taken = Recipe.load(workspace.recipe("mine-best"))
    assert (taken.name, taken.train.lr, taken.data.test) == ("mine-best", 2e-3, (Path("data/test.csv"),))
    assert searches.take_best(workspace, "mine-tune") == "mine-best", "it is there already"
    better = best.model_copy(update={"train": best.train.model_copy(update={"lr": 3e-3})})
    searched(workspace, better, [trial(2, 0.5, 3e-3)])
    assert searches.take_best(workspace, "mine-tune") == "mine-best-2"
    assert Recipe.load(workspace.recipe("mine-best")).train.lr == 2e-3


def test_before_a_trial_has_finished_there_is_no_best(workspace: Workspace) -> None:
    assert searches.names(workspace) == []
    assert searches.document(workspace, "mine-tune") is None
    searched(workspace, None, [trial(0, None, 1e-3)])
    assert searches.names(workspace) == ["mine-tune"]
    with pytest.raises(UsageError, match="no trial of mine-tune has finished"):
        searches.take_best(workspace, "mine-tune")


def test_trials_are_ranked_and_their_texts_are_text(workspace: Workspace) -> None:
    searched(workspace, None, [trial(number, 1 + (number - 6) ** 2 / 9, 1e-3) for number in range(12)])
    found = searches.document(workspace, "mine-tune")
    assert found is not None
    html = searches.shown(found)
    assert "The best 10 of 12 trials" in html
    numbers = re.findall(r'<th scope="row" class="words">(\d+)</th>', html)
    assert numbers == ["6", "5", "7", "4", "8", "3", "9", "2", "10", "1"], "the lowest loss first"
    assert "<i>" not in html
    assert json.loads((workspace.run("mine-tune") / "tune.json").read_text())["best"]["trial"] == 6
