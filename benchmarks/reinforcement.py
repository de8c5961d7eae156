"""What rewards teach, on the prompts that ship: python -m benchmarks.reinforcement --work FOLDER [--bundle BUNDLE]

Each row is the shipped recipe grpo_lora with another seed. Figures are of the 32 test
prompts, whose things, keys and wording are none of the training's, with 95 % bootstrap intervals over them. FOLDER keeps the
runs: what is in it is not trained again. About 12 minutes a row on one core. Writes results/reinforcement.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sides import write

PACKAGES = ("ptune", "torch", "transformers", "peft", "onnxruntime")
RECIPE = "grpo_lora"
CHANGES: dict[str, dict[str, Any]] = {
    "seed 0": {},
    "seed 1": {"train": {"seed": 1}},
    "seed 2": {"train": {"seed": 2}},
}
"""Row -> changed fields of the recipe."""
_ENDS = 5  # steps at the beginning and the end that a mean is taken of


def main() -> None:
    """Trains and measures the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument(
        "--bundle", type=Path, help="of SmolLM2-135M in float32; default: each run exports one"
    )
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    arguments = parser.parse_args()
    rows = {
        name: row(name, arguments.work / name.replace(" ", "-"), arguments.bundle) for name in arguments.only
    }
    document = {
        "command": "python -m benchmarks.reinforcement --work FOLDER"
        + ("" if [*rows] == [*CHANGES] else f" --only {' '.join(map(repr, rows))}"),
        "recipe": RECIPE,
        "rows": rows,
        "worst": {"drift": max(of["drift"] for of in rows.values())},
    }
    print(json.dumps(rows, indent=1))
    print(write("reinforcement", document, PACKAGES))


def row(name: str, folder: Path, bundle: Path | None) -> dict[str, Any]:
    """The figures of a run; one that lies in the folder already is read."""
    import ptune
    from ptune.evaluation.reinforcement.evaluate import evaluate_run
    from ptune.formats.whole_write import read_json
    from ptune.training.journal.metrics_log import read

    changes = CHANGES[name]
    task = {} if bundle is None else {"bundle": bundle.resolve()}
    recipe = ptune.recipe(RECIPE, task=task, train=changes.get("train", {}))
    run = ptune.train(recipe, folder, resume=folder.is_dir())
    evaluation = read_json(run.evaluation_path) if run.evaluation_path.is_file() else evaluate_run(run)
    steps = [entry for entry in read(run.metrics_path) if "reward" in entry]
    rewards = [step["reward"] for step in steps]
    return {
        "steps": len(steps),
        "answers": sum(step["targets"] for step in steps),
        "minutes": run.record().seconds / 60,
        "first": float(np.mean(rewards[:_ENDS])),
        "last": float(np.mean(rewards[-_ENDS:])),
        "drift": max(step["drift"] for step in steps),
        "prompts": evaluation["examples"],
        **{
            side: {key: shown(figure) for key, figure in evaluation["rewards"][side].items()}
            for side in ("base", "tuned", "gain")
        },
    }


def shown(figure: dict[str, Any]) -> dict[str, float]:
    """A figure as the other files have it."""
    low, high = figure["interval"]
    return {"value": figure["value"], "low": low, "high": high}


if __name__ == "__main__":
    main()
