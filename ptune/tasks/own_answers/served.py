"""The engine that samples the answers of a training: its bundle, its options, and the memory that it takes."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from ptune.config.own_answers import OwnAnswers
from ptune.config.recipe import Recipe
from ptune.engine.decoder.engine import Engine
from ptune.engine.memory import predicted_bytes, ram_bytes
from ptune.engine.options import EngineOptions
from ptune.errors import RecipeError
from ptune.formats.bundle import FP32, Bundle
from ptune.formats.run import Run
from ptune.kinds import imported
from ptune.progress import say
from ptune.training.distributed import decided_by_one


def rollout_bundle(run: Run, task: OwnAnswers) -> Path:
    """The bundle whose engine samples a run's answers: the recipe's, or one in the run's folder."""
    return run.folder / "rollout" if task.bundle is None else task.bundle


def engine_options(threads: int) -> EngineOptions:
    """Of the engine that samples: groups of answers fill its steps."""
    return EngineOptions(threads=threads, max_rows=64)


def sampling_engine(recipe: Recipe, task: OwnAnswers, run: Run, accelerator: Accelerator) -> Engine:
    """The engine of the recipe's bundle, or of the base, which is exported into the run's folder once.

    Raises: RecipeError if the bundle is of another base, or memory is short.
    """
    return _opened(_bundle(recipe, task, run, accelerator), run)


def _bundle(recipe: Recipe, task: OwnAnswers, run: Run, accelerator: Accelerator) -> Bundle:
    def made() -> Path:
        place = rollout_bundle(run, task)
        if task.bundle is None and not (place / "manifest.json").is_file():
            say(f"exporting {recipe.backbone.model} for the engine that samples answers: {place}")
            profile = "nf4" if recipe.backbone.quantize == "nf4" else FP32
            imported("ptune.publish:export_backbone")(
                recipe.backbone, place, threads=torch.get_num_threads(), profiles=(profile,)
            )
        return place

    return Bundle.open(decided_by_one(accelerator, made))


def _opened(bundle: Bundle, run: Run) -> Engine:
    wanted = run.record().base.hash
    if bundle.manifest.base.hash != wanted:
        raise RecipeError(
            f"task.bundle {bundle.folder} is of another base ({bundle.manifest.base.hash[:12]}) than the one that is trained"
            f" ({wanted[:12]})"
        )
    options = engine_options(torch.get_num_threads())
    needed, free = predicted_bytes(bundle, options), ram_bytes()
    if needed > free:
        raise RecipeError(
            f"the engine that samples needs {needed / 1e9:.1f} GB of memory beside the training, predicted, and"
            f" {free / 1e9:.1f} GB are free: use a smaller model, or a machine with more memory"
        )
    say(f"the engine that samples takes {needed / 1e9:.1f} GB more, predicted")
    return Engine.open(bundle, options)
