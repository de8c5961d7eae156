"""The rows of benchmarks/tasks.py are recipes that can be read back, on files of the folder that is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tasks import ROWS, recipe_of, table
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


def test_the_table_shows_what_was_missed() -> None:
    row = {
        "metric": "accuracy", "value": 0.8612, "low": 0.84, "high": 0.88, "goal": 0.87, "met": False, "onnx": 0.8612,
        "baselines": {"commonest label": 0.333}, "seconds": 200.0, "steps": 10,
    }  # fmt: skip
    shown = table({"sentiment_lora_accuracy": row})
    assert "**86.1%** [84.0%, 88.0%] | 86.1% | 87.0% missed | commonest label 33.3% |" in shown


def test_a_gain_is_shown_with_what_it_is_of() -> None:
    row = {
        "metric": "chrf_gain", "value": 12.34, "low": 10.0, "high": 14.6, "goal": 5.0, "met": True, "onnx": 12.3, "chrf": 47.91,
        "baselines": {"copy of the source": 20.04}, "seconds": 200.0, "steps": 10,
    }  # fmt: skip
    shown = table({"translate_chrf_gain": row})
    assert (
        "**12.3** [10.0, 14.6]: chrf 47.9 above the best baseline | 12.3 | 5.0 met | copy of the source 20.0 |"
        in shown
    )
