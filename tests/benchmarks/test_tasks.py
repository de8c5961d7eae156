"""The rows of benchmarks/tasks.py are recipes that can be read back, on files of the folder that is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tasks import ROWS, line, of_the_recipe, recipe_of
from ptune.config.recipe import Recipe


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_recipe_on_the_folders_files(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name, ROWS[name], tmp_path)
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert recipe.name == name
    for path in (*recipe.data.files, *recipe.data.test):
        assert path.is_relative_to(tmp_path) or not ROWS[name].data  # the recipe's own sample
    assert not set(recipe.data.files) & set(recipe.data.test)


def test_a_printed_row_shows_what_was_missed() -> None:
    row = {
        "metric": "accuracy", "value": 0.8612, "low": 0.84, "high": 0.88, "goal": 0.87, "met": False, "onnx": 0.8612,
        "baselines": {"commonest label": 0.333},
    }  # fmt: skip
    shown = line("sentiment_lora_accuracy", row)
    assert "86.1% [84.0%, 88.0%]" in shown
    assert shown.endswith("ONNX 86.1%  goal 87.0% MISSED  commonest label 33.3%")


def test_a_row_of_other_settings_than_the_recipes_is_not_kept() -> None:
    name = "rerank_mrr"
    now = recipe_of(name, ROWS[name], Path()).document()
    row = {"method": now["method"], "train": now["train"]}
    assert of_the_recipe(name, row)
    assert of_the_recipe(name, {**row, "train": {"lr": now["train"]["lr"]}})  # an older row says less
    assert not of_the_recipe(name, {**row, "train": {**now["train"], "lr": 0.5}})
    assert not of_the_recipe(name, {**row, "method": {**now["method"], "r": 4}})
