"""Memory check before every training: accepts the recipe, adapts it (`plan.auto`), or refuses it."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.config.memory_size import parse_bytes
from ptune.config.recipe import Recipe
from ptune.engine.memory import ram_bytes
from ptune.errors import RecipeError
from ptune.planning.files import describe
from ptune.planning.fit import fit_into, refuse
from ptune.planning.hardware import gpu_here
from ptune.planning.memory_ledger import Ledger, gigabytes
from ptune.planning.prediction import Device, predict
from ptune.progress import say


def planned(
    recipe: Recipe, lengths: Sequence[int] | None, validation: Sequence[int] | None = None
) -> tuple[Recipe, Ledger]:
    """The recipe to train, which fits, and its ledger. Reports the memory needed and any changes.

    Call it before the model is loaded: a change may affect the base.

    Raises: RecipeError if the recipe does not fit and `recipe.plan.auto` is off, or no change helps.
    """
    described = describe(recipe.backbone)
    here = gpu_here()
    device: Device = "cpu" if here is None else "cuda"
    ledger = predict(recipe, lengths, validation=validation, device=device, described=described)
    memory_bytes = budget(recipe, ledger)

    if ledger.needed_bytes > memory_bytes:
        fit = fit_into(
            recipe, lengths, memory_bytes, validation=validation, device=device, described=described
        )
        if not (fit.fits and recipe.plan.auto):
            refuse(recipe, ledger, fit)
        say(f"plan: {' '.join(fit.changes)}, so that it fits into {gigabytes(memory_bytes)}")
        recipe, ledger = fit.recipe, fit.ledger
    _check_main_memory(recipe, ledger)
    say(f"plan: {gigabytes(ledger.needed_bytes)} of {gigabytes(memory_bytes)} predicted, at {ledger.decides}")
    return recipe, ledger


def _check_main_memory(recipe: Recipe, ledger: Ledger) -> None:
    """Raises: RecipeError if a model that trains on the GPU cannot be loaded, which is done in main memory, or if that does
    not hold the inputs of its layers.
    """
    free = ram_bytes()
    if ledger.offloaded > free:
        raise RecipeError(
            f"train.activation_offloading needs {gigabytes(ledger.offloaded)} of main memory, predicted, and"
            f" {gigabytes(free)} are free; lower train.micro_batch_tokens"
        )
    if ledger.main_memory > free:
        raise RecipeError(
            f"loading {recipe.backbone.model} needs {gigabytes(ledger.main_memory)} of main memory, predicted, and"
            f" {gigabytes(free)} are free: quantising is done there, before the card gets the weights; close other"
            " programs, or take a smaller model"
        )


def budget(recipe: Recipe, ledger: Ledger) -> int:
    """Bytes that training may hold in all: as set in the recipe, or what is free on this machine."""
    if recipe.plan.memory is not None:
        return parse_bytes(recipe.plan.memory)
    here = gpu_here()
    if here is not None:
        return here[1] + ledger.baseline  # the context already exists
    return ram_bytes() + ledger.baseline  # the imports are already in memory
