"""The recipe as a form: every field is there, values go through text, and what is wrong is said by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Recipe
from ptune.config.shipped import shipped
from ptune.errors import RecipeError
from ptune.methods import METHODS
from ptune.studio.recipe.forms import as_text, changed, differences, found, meant, options_of, with_method

RECIPE = Recipe()


def _leaves(value: Any) -> int:
    """How many fields a spec has, nested ones counted by theirs."""
    kind = type(value)
    if not hasattr(kind, "model_fields"):
        return 1
    return sum(_leaves(getattr(value, name)) for name in kind.model_fields)


@pytest.mark.parametrize("name", shipped())
def test_every_field_of_a_shipped_recipe_is_an_option_with_a_description(name: str) -> None:
    recipe = read_recipe(name)
    options = options_of(recipe)
    assert len(options) == _leaves(recipe) - 1, "all but the recipe's own name"
    assert len({option.name for option in options}) == len(options)
    assert [option.name for option in options if not option.about and ".columns." not in option.name] == []


@pytest.mark.parametrize("kind", METHODS)
def test_every_value_that_a_form_shows_means_what_it_shows(kind: type) -> None:
    recipe = with_method(read_recipe("chat_lora"), kind.__name__)
    shown = {option.name: option.value for option in options_of(recipe) if option.value}
    assert changed(recipe, shown) == recipe


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_goes_through_the_form(name: str) -> None:
    recipe = read_recipe(name)
    assert changed(recipe, {option.name: option.value for option in options_of(recipe)}) == recipe


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.lr", "3e-4", 3e-4),
        ("train.max_steps", "", None),
        ("train.max_steps", " 12 ", 12),
        ("train.betas", "0.9, 0.95", (0.9, 0.95)),
        ("train.fast", "false", False),
        ("method.target_modules", "all-linear", "all-linear"),
        ("method.target_modules", "q_proj, v_proj", ("q_proj", "v_proj")),
        ("method.target_modules", "q_proj", ("q_proj",)),
        ("method.layers_to_transform", "[0, 1]", (0, 1)),
        ("method.rank_pattern", "{q_proj: 4}", {"q_proj": 4}),
        ("backbone.new_tokens", "<a>, <b>", ("<a>", "<b>")),
        ("backbone.quantize", "nf4", "nf4"),
        ("task.columns.prompt", "question", "question"),
    ],
)
def test_text_becomes_a_value(name: str, text: str, value: object) -> None:
    recipe: Any = changed(RECIPE, {name: text})
    for part in name.split("."):
        recipe = getattr(recipe, part)
    assert recipe == value


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("train.lr", "fast", "train.lr must be a number; it is 'fast'"),
        ("train.lr", "-1", "train.lr must be greater than 0; it is '-1'"),
        ("train.learning_rat", "1", "train.learning_rat: no such option"),
        ("train.epoch", "1", "did you mean 'epochs'?"),
        ("trian.lr", "1", "a recipe has no such part"),
        ("method.rank_pattern", "{q_proj: [", "is not of the form {name: value}"),
        ("method.rank_pattern", "many", "method.rank_pattern"),
        ("train.schedule", "cosin", "train.schedule must be 'cosine', 'linear'"),
        ("backbone.stream", "true", "needs train.gradient_checkpointing"),
    ],
)
def test_what_is_wrong_is_said_by_name(name: str, text: str, told: str) -> None:
    with pytest.raises(RecipeError) as raised:
        changed(RECIPE, {name: text})
    assert told in str(raised.value)


@given(
    name=st.sampled_from([option.name for option in options_of(RECIPE)]),
    text=st.text(max_size=12)
    | st.sampled_from(["{", "[", "0", "1", "-1", "nan", "true", "a, b", "{a: 1}", "null"]),
)
def test_whatever_is_typed_is_a_value_or_a_sentence(name: str, text: str) -> None:
    try:
        recipe = changed(RECIPE, {name: text})
    except RecipeError:
        return
    assert isinstance(recipe, Recipe)


def test_a_search_finds_names_first_then_descriptions() -> None:
    options = options_of(RECIPE)
    names = [option.name for option in found(options, "learning rate")]
    assert "train.lr" in names
    assert [option.name for option in found(options, "--train.batch-size")] == ["train.batch_size"]
    assert found(options, "lr")[0].name == "train.lr"
    assert found(options, "no such thing") == []


def test_a_search_without_a_find_names_the_nearest() -> None:
    assert meant(options_of(RECIPE), "train.epochz") == (
        "No option has 'train.epochz' in its name or description; did you mean 'epochs'?"
    )


def test_differences_are_those_of_the_files() -> None:
    after = changed(RECIPE, {"train.lr": "0.001", "data.files": "a.jsonl, b.jsonl"})
    assert differences(RECIPE, after) == [
        ("train.lr", "0.0005", "0.001"), ("data.files", "", "a.jsonl, b.jsonl"),
    ]  # fmt: skip
    assert differences(RECIPE, RECIPE) == []


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_digit_of_a_number_is_lost(number: float) -> None:
    assert float(as_text(number)) == number


@given(st.lists(st.text(), max_size=4))
def test_a_list_comes_back_whatever_is_in_it(words: list[str]) -> None:
    labelled = read_recipe("sentiment_lora")
    recipe = labelled.model_copy(update={"task": labelled.task.model_copy(update={"labels": tuple(words)})})
    text = as_text(tuple(words))
    assert "\n" not in text
    assert changed(recipe, {"task.labels": text}).task.labels == tuple(words)  # type: ignore[attr-defined]
