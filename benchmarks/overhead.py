"""What metrics and checkpoints cost: the same training with them and without, in CPU time of the training thread.

    python benchmarks/overhead.py [--recipe chat_lora] [--steps 60] [--rounds 2]      (5 minutes, 3 GB)

CPU time of the thread (time.thread_time), not the clock: what other processes do is not counted, and neither is waiting for
the disk. Sides are interleaved (A B B A). "With" is what every run does: metrics.jsonl, the view, checkpoints as often as the
recipe says. "Without" has the same loop write nothing. Validation is left out of both: it is work that was asked for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune import fine_tune
from ptune.cli.train import read_recipe
from ptune.training import loop
from ptune.training.checkpoint import Checkpoints
from ptune.training.journal import Journal
from ptune.training.view import View

LIMIT = 0.02
RESULT = Path(__file__).parent / "results" / "overhead.json"


@dataclass
class Side:
    """One of the two: what its loop spent, in seconds of CPU time of the training thread."""

    name: str
    seconds: list[float]


def main() -> None:
    """Prints a table and writes overhead.json."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--recipe", default="chat_lora")
    options.add_argument("--steps", type=int, default=None, help="steps of each run; default: the recipe's")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--out", type=Path, default=RESULT)
    chosen = options.parse_args()
    recipe = read_recipe(chosen.recipe)
    if chosen.steps is not None:
        recipe = recipe.model_copy(
            update={"train": recipe.train.model_copy(update={"max_steps": chosen.steps})}
        )
    sides = {name: Side(name, []) for name in ("with", "without")}
    for _ in range(chosen.rounds):
        for name in ("with", "without", "without", "with"):
            sides[name].seconds.append(measured(recipe, writes=name == "with"))
            print(f"{name:8} {sides[name].seconds[-1]:.2f} s")
    best = {name: min(side.seconds) for name, side in sides.items()}
    overhead = best["with"] / best["without"] - 1
    middle = {name: statistics.median(side.seconds) for name, side in sides.items()}
    print(f"overhead {overhead:.2%} of the best, {middle['with'] / middle['without'] - 1:.2%} of the medians")
    print(f"limit    {LIMIT:.0%}: {'kept' if overhead < LIMIT else 'BROKEN'}")
    result = {
        "recipe": chosen.recipe,
        "steps": chosen.steps,
        "overhead": overhead,
        "overhead_of_medians": middle["with"] / middle["without"] - 1,
        "limit": LIMIT,
        "seconds": {name: side.seconds for name, side in sides.items()},
    }
    chosen.out.parent.mkdir(exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=2) + "\n")


def measured(recipe: Any, *, writes: bool) -> float:
    """CPU seconds that the training thread spends in the loop."""
    spent: list[float] = []
    fit, validate = fine_tune.fit, loop.validate
    kept = {(of, name): getattr(of, name) for of, name in _WRITERS}

    def timed(job: loop.Job, state: Any) -> Any:
        started_s = time.thread_time()
        try:
            return fit(job, state)
        finally:
            spent.append(time.thread_time() - started_s)

    fine_tune.fit, loop.validate = timed, lambda job, state: state
    if not writes:
        Journal.write = lambda self, step, **values: self.latest.update(values)  # type: ignore[method-assign]
        Checkpoints.save = lambda *_: None  # type: ignore[method-assign]
        View.loss = View.details = lambda *_, **__: ""  # type: ignore[method-assign,assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            fine_tune.train(recipe, Path(folder) / "run")
    finally:
        fine_tune.fit, loop.validate = fit, validate
        for (of, name), own in kept.items():
            setattr(of, name, own)
    return spent[0]


_WRITERS = ((Journal, "write"), (Checkpoints, "save"), (View, "loss"), (View, "details"))

if __name__ == "__main__":
    main()
