"""What stands before every training: it fits, or it is changed so that it does, or it is refused."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.config.recipe import Recipe
from ptune.planning.files import describe
from ptune.planning.fit import fit_into, refuse
from ptune.planning.hardware import gpu_here, parse_bytes, ram_bytes
from ptune.planning.memory_ledger import Ledger, gigabytes
from ptune.planning.prediction import Device, predict
from ptune.progress import say


def planned(
    recipe: Recipe, lengths: Sequence[int] | None, validation: Sequence[int] | None = None
) -> tuple[Recipe, Ledger]:
    """The recipe to train, which fits, and its ledger; says how much it needs and what was changed.

    Call it before the model loads: the change may be another base.

    Raises: RecipeError where it does not fit and `recipe.plan.auto` is off, or nothing helps.
    """
    described = describe(recipe.backbone)
    here = gpu_here()
    device: Device = "cpu" if here is None else "cuda"
    ledger = predict(recipe, lengths, validation=validation, device=device, described=described)
    memory_bytes = budget(recipe, ledger)

    if ledger.needed_bytes > memory_bytes:
        found = fit_into(
            recipe, lengths, memory_bytes, validation=validation, device=device, described=described
        )
        if found is None or not recipe.plan.auto:
            refuse(recipe, ledger, memory_bytes, found)
        say(f"plan: {' '.join(found.changes)}, so that it fits into {gigabytes(memory_bytes)}")
        recipe, ledger = found.recipe, found.ledger
    say(f"plan: {gigabytes(ledger.needed_bytes)} of {gigabytes(memory_bytes)} predicted, at {ledger.decides}")
    return recipe, ledger


def budget(recipe: Recipe, ledger: Ledger) -> int:
    """Bytes that training may hold in all: as the recipe says, or what this machine has free."""
    if recipe.plan.memory is not None:
        return parse_bytes(recipe.plan.memory)
    here = gpu_here()
    if here is not None:
        return here[1] + ledger.baseline  # the context is there already
    return ram_bytes() + ledger.baseline  # and so is what this process has imported
