"""ptune plan RECIPE"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from ptune.cli.train import recipe_in, resolve, with_recipe
from ptune.config.recipe import Recipe
from ptune.data.readers.row_count import rows_of
from ptune.errors import UsageError
from ptune.kinds import DECODER, SEQ2SEQ


class PlanOptions(Recipe):
    """Every field of the recipe, and where it would be trained."""

    gpu: str | None = None
    """A card by its name or size: "RTX 4090", 24GB. Default: what this machine has."""
    time: bool = False
    """Time a few steps of the recipe on this machine, and say how long all of it takes."""
    models: bool = False
    """Also show which models from 1B to 70B fit on cards from 8 to 32 GB; that takes minutes."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the ledger as JSON."""


def run(arguments: list[str]) -> int:
    """ptune plan RECIPE [options]"""
    return with_recipe("plan", plan, arguments, PlanOptions)


def plan(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Predicts what training needs; exit code 1 where it does not fit."""
    import torch

    from ptune.backbone.kind import kind_of_recipe
    from ptune.planning.commands import commands_table, needs
    from ptune.planning.files import describe
    from ptune.planning.fit import fit_into
    from ptune.planning.hardware import computes_in, gpu_bytes, gpu_here
    from ptune.planning.memory_ledger import gigabytes
    from ptune.planning.prediction import Device, planned_dtype, predict
    from ptune.planning.preflight import budget
    from ptune.training.preparation import as_its_base_is_stored

    words = [re.sub(r"^--memory(?=$|=)", "--plan.memory", word) for word in arguments]
    options = resolve(recipe, words, program, PlanOptions)
    recipe = recipe_in(options)
    if options.time and options.gpu is not None:
        raise UsageError("--time times steps on this machine, and --gpu names another: leave one of them out")
    kind = kind_of_recipe(recipe)
    if kind is not DECODER:
        return _without_memory(recipe, options, "" if kind is not SEQ2SEQ else f" by {kind.noun}")
    memory_bytes = None if options.gpu is None else gpu_bytes(options.gpu)
    device: Device = "cuda" if options.gpu is not None or gpu_here() is not None else "cpu"
    recipe = as_its_base_is_stored(recipe)
    described = describe(recipe.backbone)
    of_card = None if options.gpu is None else getattr(torch, computes_in(options.gpu))
    ledger = predict(recipe, device=device, described=described, of_card=of_card)
    memory_bytes = budget(recipe, ledger) if memory_bytes is None else memory_bytes
    fits = ledger.needed_bytes <= memory_bytes
    found = (
        None
        if fits
        else fit_into(recipe, None, memory_bytes, device=device, described=described, of_card=of_card)
    )
    chosen = (recipe, ledger) if found is None or not found.fits else (found.recipe, found.ledger)
    rows = needs(*chosen, described.config)
    lasts = _lasts(recipe, options) if fits or recipe.plan.auto else None
    if options.as_json:
        print(json.dumps({**ledger.document(), "time": lasts, "memory_bytes": memory_bytes, "fits": fits, "quantize": recipe.backbone.quantize,
                          "commands": [asdict(row) for row in rows],
                          "changes": list(found.changes) if found is not None and found.fits else None}))  # fmt: skip
        return 0 if fits else 1
    out = Console(width=None if Console().is_terminal else 110)
    out.print(ledger.table())
    where = options.gpu or ("this GPU" if device == "cuda" else "this machine's memory")
    held = str(planned_dtype(recipe, device, of_card)).removeprefix("torch.")
    note = "; predicted, not measured on a GPU" if device == "cuda" else ""
    print(f"{gigabytes(ledger.needed_bytes)} of {gigabytes(memory_bytes)} ({where}): "
          f"{'fits' if fits else 'does not fit'}; {_stored(recipe, options)}plain weights in {held}{note}")  # fmt: skip
    if found is not None:
        print(found.described())
    print(_time(lasts, options, fits=fits or recipe.plan.auto))
    out.print(commands_table(rows, changed=found is not None and found.fits))
    if options.models:
        from ptune.planning.cards import table

        out.print(table())
    return 0 if fits else 1


def _without_memory(recipe: Recipe, options: PlanOptions, kind: str) -> int:
    """Says what is known of a training whose memory is not predicted."""
    told = (
        f"memory is predicted for chat only, not for {type(recipe.task).__name__}{kind}: a model of this kind needs a few GB;"
        " lower --train.micro-batch-tokens where that is too much"
    )
    lasts = _lasts(recipe, options)
    print(
        json.dumps({"memory": told, "time": lasts}) if options.as_json else f"{told}\n{_time(lasts, options)}"
    )
    return 0


def _stored(recipe: Recipe, asked: Recipe) -> str:
    """What the base is stored in, where that is why its weights are quantised."""
    quantize = recipe.backbone.quantize
    return "" if quantize == asked.backbone.quantize else f"layers as they are stored, in {quantize}, "


def _lasts(recipe: Recipe, options: PlanOptions) -> dict[str, Any] | None:
    """How long the training takes on this machine, as `ptune.training.journal.pace.Length.document`; None where that is not known.

    Raises: PtuneError where its steps are to be timed, and cannot be made.
    """
    from ptune.training.journal import pace

    if options.gpu is not None:
        return None
    if options.time:
        from ptune.planning.step_times import timed

        return pace.document(*timed(recipe))
    rows = rows_of(Path(), recipe.data.files)
    if rows is None:
        return None
    import torch

    from ptune.planning.hardware import gpu_here
    from ptune.training.environment import instruction_set

    device = torch.device("cpu" if gpu_here() is None else "cuda")
    here = instruction_set(device), torch.get_num_threads()
    earlier = pace.of_earlier_run(recipe, Path("runs"), here)
    if earlier is None:
        return None
    return pace.document(pace.length(recipe, pace.examples_of(recipe, rows)), earlier)


def _time(lasts: dict[str, Any] | None, options: PlanOptions, *, fits: bool = True) -> str:
    """How long it takes, or how to learn that."""
    if lasts is not None:
        return f"time: {lasts['told']}"
    if options.gpu is not None:
        return "time: not predicted for another machine than this one"
    if not fits:
        return "time: not known, as it does not fit"
    return "time: not known; --time times a few steps of it on this machine"
