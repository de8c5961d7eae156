"""What the losses of preferences teach, on the pairs that ship: python -m benchmarks.preferences --work FOLDER

Each row is the shipped recipe dpo_lora, as it is or with another loss, and otherwise its own settings: rates were not searched
for. Figures are of the 74 test pairs, with 95 % bootstrap intervals over them. FOLDER keeps the runs: what is in it is not
trained again. About 6 minutes a row on one core. Writes results/preferences.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sides import write

if TYPE_CHECKING:
    from ptune.data.preferences import Pairs
    from ptune.formats.run import Run

PACKAGES = ("ptune", "torch", "transformers", "peft")
RECIPE = "dpo_lora"
CHANGES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "dpo alone": {"sft_weight": 0.0},
    "orpo": {"loss": "orpo", "sft_weight": None},
    "simpo": {"loss": "simpo"},
}
"""Row -> changed fields of the task."""


def main() -> None:
    """Trains and measures the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    arguments = parser.parse_args()
    rows = {name: row(name, arguments.work / name.replace(" ", "-")) for name in arguments.only}
    document = {
        "command": "python -m benchmarks.preferences --work FOLDER"
        + ("" if [*rows] == [*CHANGES] else f" --only {' '.join(map(repr, rows))}"),
        "recipe": RECIPE,
        "tokens_with_prompts_once": saved(arguments.work / arguments.only[0].replace(" ", "-")),
        "rows": rows,
    }
    print(json.dumps(rows, indent=1))
    print(write("preferences", document, PACKAGES))


def row(name: str, folder: Path) -> dict[str, Any]:
    """The figures of a run; one that lies in the folder already is read."""
    import ptune
    from ptune.evaluation.evaluate import evaluate
    from ptune.formats.whole_write import read_json

    run = ptune.train(ptune.recipe(RECIPE, task=CHANGES[name]), folder, resume=folder.is_dir())
    evaluation = read_json(run.evaluation_path) if run.evaluation_path.is_file() else evaluate(run)
    found = evaluation["pairs"]
    return {
        "pairs": found["pairs"],
        "loss": {"base": evaluation["before"]["loss"], "tuned": evaluation["after"]["loss"]},
        "gain": {"chosen": rise(found, "chosen")},
        "loss_of": {"rejected": -rise(found, "rejected")},
        **{side: {key: shown(figure) for key, figure in found[side].items()} for side in ("base", "tuned")},
    }


def rise(found: dict[str, Any], side: str) -> float:
    """By how much the log-probability of the answers of a side rose in training."""
    risen: float = found["tuned"][side]["value"] - found["base"][side]["value"]
    return risen


def shown(figure: dict[str, Any]) -> dict[str, float]:
    """A figure as the other files have it."""
    low, high = figure["interval"]
    return {"value": figure["value"], "low": low, "high": high}


def saved(folder: Path) -> float:
    """Tokens of the training pairs with each prompt once, as a share of those with each answer alone."""
    from ptune.training.answer_rows import size

    pairs = training_pairs(folder)
    return sum(map(size, pairs)) / sum(map(len, pairs))


def training_pairs(folder: Path) -> Pairs:
    """The pairs that a run was trained on."""
    from ptune.codecs.chat import ChatCodec
    from ptune.config.recipe import Recipe
    from ptune.data import dataset
    from ptune.data.preferences import Pairs
    from ptune.formats.run import Run

    run: Run = Run.open(folder)
    recipe = Recipe.load(run.recipe_path)
    data = dataset.load(recipe.data, recipe.chat, ChatCodec.open(run.codec_path), recipe.train.seed)
    return Pairs(data.train, "train")


if __name__ == "__main__":
    main()
