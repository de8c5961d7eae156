"""Names of other tools lead to the recipe's fields, also with a typing error in them."""

from __future__ import annotations

import pytest

from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Recipe
from ptune.foreign.known_names import meant_by
from ptune.studio.recipe.forms import found, options_of


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("num_epochs", "train.epochs"),
        ("num_train_epochs", "train.epochs"),
        ("num-train-epochs", "train.epochs"),
        ("learning_rate", "train.lr"),
        ("lerning rat", "train.lr"),
        ("weight_decay", "train.weight_decay"),
        ("lora_r", "method.r"),
    ],
)
def test_the_field_that_is_meant(words: str, path: str) -> None:
    assert meant_by(words) == path
    assert found(options_of(recipe()), words)[0].name == path


@pytest.mark.parametrize("words", ["", "zebra", "the"])
def test_words_that_no_tool_has(words: str) -> None:
    assert meant_by(words) is None


def test_own_names_come_first() -> None:
    assert found(options_of(recipe()), "epochs")[0].name == "train.epochs"
    assert found(options_of(recipe()), "min_steps")[0].name == "train.min_steps"


def recipe() -> Recipe:
    return read_recipe("chat_lora")
