"""How long a training will take: its steps and validations, at the pace of steps like them on this machine. Torch-free.

The pace is that of a few steps that were timed (`ptune.planning.step_times`), or of an earlier run whose steps were the same work.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptune.config.recipe import Recipe
from ptune.errors import PtuneError
from ptune.formats.run import Run
from ptune.progress import duration
from ptune.training.order import Order

LEAST_STEPS = 5
"""A run of fewer steps tells no pace."""
_EVERY_STEP = (
    "batch_size", "micro_batch_tokens", "optimizer", "gradient_checkpointing", "fast", "activation_offloading", "tiled_mlp",
    "dropout", "neftune_alpha", "ema",
)  # fmt: skip
"""Fields of `train` that a step's time depends on."""


@dataclass(frozen=True)
class Pace:
    """How long steps and validations take on a machine."""

    step_s: float  # an optimiser step, on average
    validation_s: (
        float  # all validation examples, once; of a run with what else was done then, such as a checkpoint
    )
    by: str  # what was timed: "4 of its steps" or "runs/mine"


@dataclass(frozen=True)
class Length:
    """How much a training is."""

    steps: int
    validations: int
    examples: int  # that it passes over
    at_most: bool = False  # it may stop early

    def lasts_s(self, pace: Pace) -> float:
        """Seconds of all of it, without loading the model and saving the result."""
        return self.steps * pace.step_s + self.validations * pace.validation_s

    def told(self, pace: Pace) -> str:
        """About how long, of what, and how that is known."""
        most = "at most about" if self.at_most else "about"
        held = (
            f" and {self.validations:,} validations of {_short(pace.validation_s)}"
            if self.validations
            else ""
        )
        return (
            f"{most} {duration(self.lasts_s(pace))} on this machine: {self.steps:,} steps of {_short(pace.step_s)}{held}, by"
            f" {pace.by}; loading and saving not counted"
        )


def _short(seconds: float) -> str:
    """Seconds in words, of which few are told more exactly."""
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def document(length: Length, pace: Pace) -> dict[str, Any]:
    """How long it takes, in JSON types."""
    return {**asdict(length), **asdict(pace), "seconds": length.lasts_s(pace), "told": length.told(pace)}


def pace_in(document: dict[str, Any]) -> Pace:
    """The pace that a document tells. Raises: KeyError, ValueError, TypeError where it tells none."""
    return Pace(float(document["step_s"]), float(document["validation_s"]), str(document["by"]))


def length(recipe: Recipe, examples: int, *, validated: bool = True) -> Length:
    """How much training `recipe` on so many training examples is. validated: whether any are held out."""
    train, each = recipe.train, recipe.task.steps_per_batch
    order = Order(max(1, examples), train.batch_size, train.seed, each=each)
    steps, every = order.steps(recipe.train), order.validate_every(recipe.train)
    return Length(
        steps, -(-steps // every) if validated else 0, max(1, examples), recipe.train.patience is not None
    )


def examples_of(recipe: Recipe, rows: int) -> int:
    """About how many training examples `rows` rows of `data.files` make. What is held out does not count against `data.limit`."""
    kept = rows if recipe.data.validation else rows - round(rows * recipe.data.validation_share)
    return kept if recipe.data.limit is None else min(kept, recipe.data.limit)


def same_steps(recipe: Recipe) -> str:
    """What a step's time depends on, as a text that is the same for recipes whose steps are the same work.

    How many rows of the files are used does not count: they are taken to be alike.
    """
    document = recipe.document()
    kept = {name: document[name] for name in ("task", "method", "backbone")}
    kept["backbone"] = {
        name: value for name, value in kept["backbone"].items() if name not in ("cache", "dtype")
    }
    kept["train"] = {name: document["train"][name] for name in _EVERY_STEP}
    kept["files"] = document["data"]["files"], document["data"]["weights"]
    return json.dumps(kept, sort_keys=True)


def of_earlier_run(recipe: Recipe, runs: Path, here: tuple[str, int] | None = None) -> Pace | None:
    """The pace of the newest run in `runs` whose steps were the same work; None if there is none.

    here: instruction set and threads of this machine, which the run must have had; None: any, where runs come from this machine.
    """
    wanted = same_steps(recipe)
    for folder in sorted(runs.glob("*/run.json"), key=_written, reverse=True):
        run = Run(folder.parent)
        try:
            record, trained = run.record(), Recipe.load(run.recipe_path)
            where = (record.instruction_set, record.threads)
            asked = recipe.backbone.dtype in ("auto", trained.backbone.dtype)
            same = record.processes == 1 and here in (None, where) and asked and same_steps(trained) == wanted
            pace = _pace(run.metrics(), record.seconds, f"runs/{run.folder.name}") if same else None
        except (PtuneError, OSError):
            continue
        if pace is not None:
            return pace
    return None


def _pace(entries: Sequence[dict[str, Any]], seconds: float, by: str) -> Pace | None:
    """seconds: of the whole run; 0 where it was not ended."""
    steps = [entry["seconds"] for entry in entries if "loss" in entry and "seconds" in entry]
    if len(steps) < LEAST_STEPS:
        return None
    validations = sum("validation_loss" in entry for entry in entries)
    rest = max(0.0, seconds - sum(steps))
    return Pace(statistics.fmean(steps), rest / validations if validations else 0.0, by)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
