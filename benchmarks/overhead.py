"""What metrics, the view and checkpoints cost a training, in CPU time of its thread.

    python -m benchmarks.overhead [--recipe chat_lora] [--steps 84]      (5 minutes, 4 GB) -> benchmarks/results/overhead.json

One training as it always is; whatever the loop writes or shows is timed where it is called, by time.thread_time: what other
processes do is not counted, and neither is waiting for the disk. The overhead is the sum of these over the rest of the loop's
time, validation left out. Two trainings, one that writes and one that does not, would differ by more than this from run to run.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.sides import write
from ptune import fine_tune
from ptune.config.read_recipe import read_recipe
from ptune.progress import Progress
from ptune.training import loop
from ptune.training.journal.metrics_log import Journal
from ptune.training.journal.view import View

LIMIT = 0.02
PACKAGES = ("ptune", "torch", "transformers", "peft")
WRITERS: tuple[tuple[Any, str], ...] = (
    (Journal, "write"),
    (loop, "save"),
    (View, "see"),
    (View, "loss"),
    (View, "details"),
    (Progress, "advance"),
)


def main() -> int:
    """Prints a line for each writer and writes overhead.json; 1 where the limit is broken."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--recipe", default="chat_lora")
    options.add_argument("--steps", type=int, default=None, help="default: the recipe's")
    chosen = options.parse_args()
    recipe = read_recipe(chosen.recipe)
    if chosen.steps is not None:
        recipe = recipe.model_copy(
            update={"train": recipe.train.model_copy(update={"max_steps": chosen.steps})}
        )
    spent, calls = measured(recipe)
    whole_s = spent.pop("loop") - spent.pop("validation")
    wrote_s = sum(spent.values())
    overhead = wrote_s / (whole_s - wrote_s)
    for name, seconds in spent.items():
        print(f"{name:20} {calls[name]:5} calls {seconds:8.3f} s")
    print(f"the loop without validation {whole_s:.1f} s: overhead {overhead:.2%}")
    print(f"limit {LIMIT:.0%}: {'kept' if overhead < LIMIT else 'BROKEN'}")
    result = {
        "command": "python -m benchmarks.overhead",
        "recipe": chosen.recipe,
        "steps": calls["Journal.write"],
        "overhead": overhead,
        "limit": LIMIT,
        "loop_s": whole_s,
        "seconds": dict(spent),
        "calls": {name: calls[name] for name in spent},
    }
    write("overhead", result, PACKAGES)
    return 0 if overhead < LIMIT else 1


def measured(recipe: Any) -> tuple[dict[str, float], Counter[str]]:
    """Seconds of the training thread in the loop, in validation and in each writer; and how often each was called."""
    spent: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    outermost: list[str] = []  # a writer within a writer, or within validation, is counted once

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> Any:
            if outermost and outermost[-1] != "loop":
                return work(*args, **kwargs)
            outermost.append(name)
            started_s = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                spent[name] += time.thread_time() - started_s
                calls[name] += 1
                outermost.pop()

        return run

    places: list[tuple[Any, str, str]] = [
        (of, name, f"{of.__name__.rpartition('.')[2]}.{name}") for of, name in WRITERS
    ]
    places += [(fine_tune, "fit", "loop"), (loop, "validate", "validation")]
    kept = [(of, name, getattr(of, name)) for of, name, _ in places]
    for of, name, label in places:
        setattr(of, name, timed(label, getattr(of, name)))
    try:
        with tempfile.TemporaryDirectory() as folder:
            fine_tune.train(recipe, Path(folder) / "run")
    finally:
        for of, name, own in kept:
            setattr(of, name, own)
    return spent, calls


if __name__ == "__main__":
    raise SystemExit(main())
