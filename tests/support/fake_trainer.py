"""A training without a model, as `ptune train` looks from outside: a run folder, metrics.jsonl, exit codes.

    python fake_trainer.py RECIPE.yaml RUN_FOLDER [--resume]

The validation loss falls towards (log10(lr) + 3)², so that 1e-3 is best. Recipes steer it: train.warmup is the time between
two validations in seconds, train.lr over 0.5 diverges, method.r 13 kills it, evaluate.limit is how many validations there are.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import yaml


def main() -> int:
    recipe, folder = yaml.safe_load(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    resume = "--resume" in sys.argv
    assert resume == (folder.exists() and any(folder.iterdir())), "resumed without need, or begun twice"
    assert recipe["data"]["test"] == [], "a trial must not know the test set"
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    metrics = folder / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) // 2 if resume else 0
    write(folder, "running", done, None)
    (folder / "checkpoints").mkdir(exist_ok=True)
    train, validations = recipe["train"], recipe["evaluate"]["limit"] or 4
    if recipe["method"]["r"] == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    for step in range(done + 1, validations + 1):
        say(metrics, step=step, loss=1.0)
        if train["lr"] > 0.5:
            print("error: training diverged: the loss of step 1 is nan", file=sys.stderr)
            return 1
        loss = (math.log10(train["lr"]) + 3) ** 2 + 1 / step
        say(metrics, step=step, validation_loss=loss, validation_accuracy=1 / (1 + loss))
        time.sleep(train["warmup"])
        while held(folder).exists() and not stopped:
            time.sleep(0.01)
        if stopped and step < validations:
            write(folder, "interrupted", step, step)
            return 130
    write(folder, "finished", validations, validations)
    (folder / "resumed" if resume else folder / "at-once").touch()
    return 0


def held(folder: Path) -> Path:
    """A file beside a run's folder: while it is there, the training goes no further than to its next validation."""
    return folder.with_name(f"{folder.name}.held")


def write(folder: Path, status: str, steps: int, best: int | None) -> None:
    folder.mkdir(exist_ok=True)
    base = {"hash": "sha256:00", "source": "none"}
    record = {
        "status": status,
        "created": "2025-01-01",
        "base": base,
        "steps": steps,
        "best_step": best,
        "seconds": 1.0,
    }
    (folder / "run.json").write_text(json.dumps(record))


def say(path: Path, **values: float) -> None:
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
