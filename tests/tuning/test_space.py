"""The grammar of a space: what is written comes back, what is wrong is named, the recipe is asked before anything runs."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.config.classification import TextClassification
from ptune.config.recipe import Backbone, Recipe
from ptune.errors import PtuneError, RecipeError, UsageError
from ptune.methods.lora import Lora
from ptune.tuning.space import Choice, Range, changed, check, parse, size, spelled

RECIPE = Recipe(task=TextClassification())


def test_the_three_forms():
    space = parse(
        ["train.lr=log:1e-5..1e-3", "method.r=4|8|16", "train.epochs=1..3", "train.warmup=0.0..0.5"]
    )
    assert space == {
        "train.lr": Range(1e-5, 1e-3, log=True),
        "method.r": Choice((4, 8, 16)),
        "train.epochs": Range(1, 3, whole=True),
        "train.warmup": Range(0.0, 0.5),
    }
    check(space, RECIPE, "validation_loss")


def test_choices_are_numbers_words_and_truth():
    [axis] = parse(["x.y=true|false|none|1|2.5|1e-3|cosine"]).values()
    assert axis == Choice((True, False, "none", 1, 2.5, 1e-3, "cosine"))


finite = st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300, max_value=1e300)


@given(st.tuples(finite, finite).filter(lambda pair: pair[0] < pair[1]), st.booleans())
def test_any_range_of_numbers_comes_back(bounds, log):
    low, high = bounds
    axis = Range(low, high, log=log)
    assert parse([f"train.lr={axis}"]) == {"train.lr": axis}


@given(st.tuples(st.integers(), st.integers()).filter(lambda pair: pair[0] < pair[1]))
def test_any_range_of_whole_numbers_comes_back(bounds):
    low, high = bounds
    axis = Range(low, high, whole=True)
    assert parse([f"method.r={axis}"]) == {"method.r": axis}


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_in_one_sentence(text):
    for word in (text, f"train.lr={text}"):
        with contextlib.suppress(UsageError):
            for axis in parse([word]).values():
                assert isinstance(axis, Choice) or (math.isfinite(axis.high) and axis.low < axis.high)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("", "expected FIELD=VALUES"),
        ("train.lr", "expected FIELD=VALUES"),
        ("=1..2", "expected FIELD=VALUES"),
        ("train.lr=", "expected FIELD=VALUES"),
        ("train.lr=1e-3", "a single value is an option: --train.lr 1e-3"),
        ("train.lr=1e-3..1e-5", "train.lr=1e-3..1e-5: 1e-3 must be less than 1e-5"),
        ("train.lr=1..1", "must be less"),
        ("train.lr=log:0..1", "must begin above 0"),
        ("train.lr=log:-1..1", "must begin above 0"),
        ("train.lr=ln:1..2", "expected LOW..HIGH"),
        ("train.lr=1...2", "expected LOW..HIGH"),
        ("train.lr=1..2..3", "expected LOW..HIGH"),
        ("train.lr=nan..inf", "expected LOW..HIGH"),
        ("train.lr=0.1..1e999", "must be less"),
        ("method.r=4|8|", "'' is not a valid choice"),
        ("method.r=4|8|4", "a choice is given twice"),
        ("method.r=4|8..16", "'8..16' is not a valid choice"),
    ],
)
def test_what_is_no_space_is_named(word, told):
    with pytest.raises(UsageError) as caught:
        parse([word])
    assert told in str(caught.value)
    assert word.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.lr=0.1..0.2", "train.lr=1|2"], "train.lr is given twice"),
        ([], "--space is empty"),
    ],
)
def test_what_is_no_space_as_a_whole(words, told):
    with pytest.raises(UsageError, match=told):
        parse(words)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("train.epoch=1..2", "Train has no field 'epoch'; did you mean 'epochs'?"),
        ("method.rank=4|8", "Lora has no field 'rank'"),
        ("lr=0.1..0.2", "lr cannot be searched"),
        ("name=a|b", "name cannot be searched"),
        ("data.limit=10|20", "trials must see the same examples"),
        ("train.seed=0..9", "luck"),
        ("task.label_smoothing=0.0..0.1", "--metric validation_accuracy"),
        ("train.lr=-1.0..1.0", "train.lr=-1: Input should be greater than 0"),
        ("method.r=0..8", "method.r=0: Input should be greater than or equal to 1"),
        ("method.r=4.0..8.0", "method.r=4: Input should be a valid integer"),
        ("method.r=4|eight", "method.r=eight: Input should be a valid integer"),
        ("method.r=4|true", "method.r=true: Input should be a valid integer"),
        ("train.gradient_checkpointing=0|1", "Input should be a valid boolean"),
        ("train.schedule=cosine|cubic", "train.schedule=cubic: Input should be 'cosine'"),
        ("backbone.dtype=float32|float64", "backbone.dtype=float64"),
    ],
)
def test_the_recipe_is_asked_before_anything_runs(word, told):
    with pytest.raises(PtuneError) as caught:
        check(parse([word]), RECIPE, "validation_loss")
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


def test_rules_that_bind_two_fields_are_checked_too():
    from ptune.methods.full import Full

    with pytest.raises(RecipeError, match="needs method Lora"):
        check(parse(["backbone.quantize=none|nf4"]), Recipe(method=Full()), "validation_loss")


def test_what_changes_the_targets_is_judged_by_accuracy_only():
    check(parse(["task.label_smoothing=0.0..0.1"]), RECIPE, "validation_accuracy")
    models = parse(["backbone.model=one|two"])
    check(models, RECIPE, "validation_loss")
    with pytest.raises(UsageError, match="what the validation loss measures"):
        check(models, Recipe(), "validation_loss")  # chat: other tokens


def test_a_changed_recipe_keeps_the_rest():
    recipe = Recipe(backbone=Backbone(model="somewhere"))
    after = changed(recipe, {"train.lr": 0.01, "method.r": 3, "train.dropout": "none"})
    assert isinstance(after.method, Lora)
    assert (after.train.lr, after.method.r, after.train.dropout) == (0.01, 3, None)
    assert after.backbone == recipe.backbone
    assert recipe.train.lr != 0.01


def test_how_many_points_there_are():
    assert size(parse(["method.r=4|8|16", "train.epochs=1..3"])) == 9
    assert size(parse(["method.r=4|8|16", "train.lr=0.1..0.2"])) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.99999, "0.99999"), (0.00015625, "0.00015625"), (1e-3, "0.001"), (0.00012345678901, "0.0001235")],
)
def test_a_number_that_somebody_wrote_is_told_as_it_is(value: float, told: str) -> None:
    """An average's decay of 0.99999 was told as 1, which is none."""
    assert spelled(value) == told
