"""Presets: who asks for more training gets more, however few the rows are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.begin.presets import Preset, with_preset
from ptune.begin.starts import STARTS, Word
from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Recipe
from ptune.training.order import Order


def steps(recipe: Recipe, preset: Preset, rows: int) -> int:
    """The steps that the training of this recipe with this preset plans on `rows` rows, held-out ones among them."""
    recipe = with_preset(recipe, preset)
    rows = min(rows, recipe.data.limit or rows)
    trained = max(1, rows - round(rows * recipe.data.validation_share))
    return Order(trained, recipe.train.batch_size, recipe.train.seed).steps(recipe.train)


@given(
    word=st.sampled_from(sorted(STARTS)),
    rows=st.integers(1, 2_000_000),
    batch_size=st.integers(1, 4096),
    most=st.none() | st.integers(1, 10_000),
    least=st.none() | st.integers(1, 10_000),
    epochs=st.floats(0.01, 100),
)
def test_quick_is_no_longer_than_balanced_and_balanced_shorter_than_best(
    word: Word, rows: int, batch_size: int, most: int | None, least: int | None, epochs: float
) -> None:
    shipped = read_recipe(STARTS[word].recipe)
    fields = {"batch_size": batch_size, "max_steps": most, "min_steps": least, "epochs": epochs}
    recipe = shipped.model_copy(update={"train": shipped.train.model_copy(update=fields)})
    quick, balanced, best = (steps(recipe, preset, rows) for preset in ("quick", "balanced", "best"))
    assert quick <= balanced < best <= 3 * balanced


@pytest.mark.parametrize("word", sorted(STARTS))
def test_few_rows_are_trained_on_for_more_than_a_handful_of_steps(word: Word) -> None:
    shipped = read_recipe(STARTS[word].recipe)
    assert steps(shipped, "balanced", 40) >= 50
    assert steps(shipped, "best", 40) >= 150
    many = 100_000
    assert steps(shipped, "balanced", many) == Order(
        many - round(many * shipped.data.validation_share), shipped.train.batch_size, 0
    ).steps(shipped.train), "with many rows it is what the shipped recipe does"


def test_best_waits_as_long_as_balanced_for_something_better() -> None:
    """Both stop early: the one that is to be better may not be the less patient."""
    shipped = read_recipe(STARTS["classify"].recipe)
    patience = [with_preset(shipped, preset).train.patience or 0 for preset in ("balanced", "best")]
    assert patience == sorted(patience)
