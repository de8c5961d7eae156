"""The one list of what saves memory."""

from __future__ import annotations

import pytest

from ptune.config.chat import Chat
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.full import Full
from ptune.training.memory.remedies import LEAST_ROW, SAVINGS, SHORTEST, Saving, as_planned, options

FIRST = {  # recipes that a saving is for, where it is not for all
    "tiled_mlp": Recipe(train=Train(gradient_checkpointing=True)),
    "activation_offloading": Recipe(train=Train(gradient_checkpointing=True)),
    "optimizer": Recipe(method=Full()),
    "stream": Recipe(train=Train(gradient_checkpointing=True)),
}


@pytest.mark.parametrize("saving", SAVINGS, ids=lambda saving: saving.fields[0])
def test_notches_change_nothing_else_and_come_to_an_end(saving: Saving) -> None:
    before = recipe = FIRST.get(saving.fields[0], Recipe())
    for _ in range(20):
        cheaper = saving.notch(recipe)
        if cheaper is None:
            break
        assert cheaper != recipe
        recipe = cheaper
    assert saving.notch(recipe) is None
    assert len(options(before, recipe)) == len(saving.fields)
    values = getattr(recipe, saving.section).model_dump()
    kept = getattr(before, saving.section).model_copy(update={name: values[name] for name in saving.fields})
    assert recipe == before.model_copy(update={saving.section: kept})


def test_no_notch_is_too_small() -> None:
    tight = Recipe(train=Train(micro_batch_tokens=2 * LEAST_ROW), task=Chat(max_length=2 * SHORTEST - 1))
    rows, *_, length, stream = (saving.notch(tight) for saving in SAVINGS)
    assert rows is not None
    assert rows.train.micro_batch_tokens == LEAST_ROW
    assert length is None
    assert stream is None  # without checkpointing


def test_what_cannot_be_done_is_not_in_the_list() -> None:
    assert [saving.fields[0] for saving in SAVINGS if saving.notch(Recipe(method=Full()))] == [
        "micro_batch_tokens",
        "gradient_checkpointing",
        "optimizer",
        "max_length",
    ]
    images = Recipe(task=ImageClassification(), train=Train(gradient_checkpointing=True))
    assert [saving.fields[0] for saving in SAVINGS if saving.notch(images)] == [
        "micro_batch_tokens",
        "activation_offloading",
    ]


def test_options_are_those_of_the_command_line() -> None:
    after = Recipe(
        train=Train(micro_batch_tokens=512, gradient_checkpointing=True), backbone=Backbone(quantize="nf4")
    )
    assert options(Recipe(), after) == (
        "--train.micro-batch-tokens 512",
        "--train.gradient-checkpointing",
        "--backbone.quantize nf4",
    )
    assert options(after, after) == ()


def test_a_resume_takes_what_the_plan_chose() -> None:
    chosen = Recipe(train=Train(micro_batch_tokens=512, lr=1.0), task=Chat(max_length=256))
    recipe = as_planned(Recipe(), chosen)
    assert recipe == Recipe(train=Train(micro_batch_tokens=512), task=Chat(max_length=256))
    images = Recipe(task=ImageClassification())
    assert as_planned(images, images) == images
