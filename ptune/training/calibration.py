"""Has a method begin with what the first rows of the training show, or with what quantising has lost; a run that goes on begins alike."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft import PeftModel

from ptune.backbone.load import as_stored
from ptune.config.recipe import Recipe
from ptune.errors import BackboneError, RecipeError
from ptune.methods.lora import Lora
from ptune.methods.lora_loftq import begin_loftq
from ptune.methods.peft_method import PeftMethod
from ptune.progress import say
from ptune.training.objective import Objective
from ptune.training.order import Order, mixture_of
from ptune.training.work import TaskData, Work

STEPS = 8  # of the training, whose rows are seen


def calibrate(recipe: Recipe, model: Any, objective: Objective, data: TaskData) -> None:
    """Prepares a method's first weights, in evaluation mode, before the optimiser knows them.

    It is the same in every process and each time: the rows are those of the first steps, in their order; shuffled in any case, as
    the shortest rows are not typical.
    Raises: RecipeError.
    """
    method = recipe.method
    if not (isinstance(method, PeftMethod) and method.calibrated):
        return
    assert isinstance(model, PeftModel)
    mixture = mixture_of(data.parts, recipe.data.weights)
    order = Order(len(data.train), recipe.train.batch_size, recipe.train.seed, mixture)
    by_gradient = isinstance(method, Lora) and method.init == "lora_ga"
    steps = 1 if by_gradient else min(STEPS, order.steps(recipe.train))
    first = "step" if steps == 1 else f"{steps} steps"
    say(f"method {type(method).__name__} begins with the rows of the first {first}")

    if recipe.train.gradient_checkpointing and by_gradient:
        raise RecipeError(
            "method.init 'lora_ga' wants a gradient before the first step, and keeps all activations for it: leave out"
            " train.gradient_checkpointing, or take init eva"
        )
    rows = ([data.train[index] for index in order.batch(step)] for step in range(steps))
    torch.manual_seed(recipe.train.seed)
    runs = [
        partial(_loss, objective, model, batch, sum(map(objective.targets, some)) or 1)
        for some in rows
        for batch in objective.batches(some)
    ]
    model.eval()
    model.training = by_gradient  # itself alone: rows count as in training, and nothing is dropped
    method.calibrate(model, runs)


def begin_beside_original(recipe: Recipe, model: Any, work: Work) -> None:
    """Has an adapter begin as what quantising has lost, where the recipe says so: the weights are read once more, unquantised.

    Raises: RecipeError where there are no others, or too few for the rank.
    """
    method = recipe.method
    if not (isinstance(method, Lora) and method.init == "loftq"):
        return
    as_published = recipe.backbone.model_copy(update={"quantize": "none", "dtype": "float32"})
    there: Any = work
    try:
        original = replace(there, recipe=recipe.model_copy(update={"backbone": as_published})).load(
            torch.device("cpu")
        )
    except BackboneError as error:
        raise RecipeError(f"method.init 'loftq' begins with what quantising has lost: {error}") from None
    begin_loftq(model, original.model)


def check_original(recipe: Recipe) -> None:
    """Raises: RecipeError where nothing was quantised, or by somebody else, so that there is nothing to compare with."""
    method = recipe.method
    if not (isinstance(method, Lora) and method.init == "loftq"):
        return
    if recipe.backbone.quantize == "none":
        raise RecipeError(
            "method.init 'loftq' begins with what quantising has lost: set backbone.quantize, or leave method.init out"
        )
    stored = as_stored(recipe.backbone.model_copy(update={"quantize": "none"})).quantize
    if stored != "none":
        raise RecipeError(
            f"method.init 'loftq' begins with what quantising has lost, and {recipe.backbone.model} is stored in {stored}: name its"
            " original weights"
        )


def _loss(objective: Objective, model: PeftModel, batch: Any, targets: float) -> torch.Tensor:
    """A pass's share of its step's mean loss. targets: of the step."""
    return objective.score(model, batch).loss / targets
