"""What the losses of preferences teach, on the pairs that ship: python -m benchmarks.preferences --work FOLDER

Each row is a shipped recipe, dpo_lora also with other losses, and otherwise its own settings: rates were not searched for.
Figures are of the 74 test pairs, of which kto_lora sees 148 answers, with 95 % intervals over them: exact
ones of shares, else the bootstrap's. FOLDER keeps the
runs: what is in it is not trained again. About 6 minutes a row on one core, kto 15, reward 3. Writes results/preferences.json;
with --only the other rows stay as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sides import RESULTS, write

if TYPE_CHECKING:
    from ptune.data.shapes.preferences import Pairs
    from ptune.formats.run import Run

PACKAGES = ("ptune", "torch", "transformers", "peft")
RECIPE = "dpo_lora"
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "recipe": (RECIPE, {}),
    "dpo alone": (RECIPE, {"sft_weight": 0.0}),
    "orpo": (RECIPE, {"loss": "orpo", "sft_weight": None}),
    "simpo": (RECIPE, {"loss": "simpo"}),
    "kto": ("kto_lora", {}),
    "reward": ("reward_lora", {}),
}
"""Row -> its recipe, and changed fields of the task."""


def main() -> None:
    """Trains and measures the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    arguments = parser.parse_args()
    rows = {name: row(name, arguments.work / name.replace(" ", "-")) for name in arguments.only}
    path = RESULTS / "preferences.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": {}}
    paired = next((name for name in rows if ROWS[name][0] == RECIPE), None)
    once = {"tokens_with_prompts_once": kept.get("tokens_with_prompts_once")}
    if paired is not None:
        once["tokens_with_prompts_once"] = saved(arguments.work / paired.replace(" ", "-"))
    document = {
        "command": "python -m benchmarks.preferences --work FOLDER",
        "recipe": RECIPE,
        **once,
        "rows": {name: {**kept["rows"], **rows}[name] for name in ROWS if name in {**kept["rows"], **rows}},
    }
    print(json.dumps(rows, indent=1))
    print(write("preferences", document, PACKAGES))


def row(name: str, folder: Path) -> dict[str, Any]:
    """The figures of a run; one that lies in the folder already is read."""
    import ptune
    from ptune.config.tasks import task_of
    from ptune.formats.whole_write import read_json
    from ptune.kinds import imported

    recipe = ptune.recipe(ROWS[name][0], task=ROWS[name][1])
    run = ptune.train(recipe, folder, resume=folder.is_dir())
    if not run.evaluation_path.is_file():
        imported(task_of(recipe.task).evaluate)(run)
    evaluation = read_json(run.evaluation_path)
    if "pairs" in evaluation:
        return of_pairs(evaluation)
    return of_answers(evaluation) if "judged" in evaluation else of_rewards(evaluation)


def of_pairs(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run on pairs."""
    found = evaluation["pairs"]
    return {
        "pairs": found["pairs"],
        "loss": {"base": evaluation["before"]["loss"], "tuned": evaluation["after"]["loss"]},
        "gain": {"chosen": rise(found, "chosen")},
        "loss_of": {"rejected": -rise(found, "rejected")},
        **{side: {key: shown(figure) for key, figure in found[side].items()} for side in ("base", "tuned")},
    }


def of_answers(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run on judged answers."""
    found = evaluation["judged"]
    return {
        "answers": found["answers"],
        "loss": {"base": evaluation["before"]["loss"], "tuned": evaluation["after"]["loss"]},
        "gain": {"desirable": rise(found, "desirable")},
        "loss_of": {"undesirable": -rise(found, "undesirable")},
        "longer": found["longer"],
        **{side: {key: shown(figure) for key, figure in found[side].items()} for side in ("base", "tuned")},
    }


def of_rewards(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures of a reward model, and of length alone."""
    metrics, intervals = evaluation["metrics"], evaluation["intervals"]
    return {
        "pairs": evaluation["examples"],
        **{name: shown({"value": metrics[name], "interval": intervals.get(name)}) for name in metrics},
        "baselines": {
            name: shown({"value": side["metrics"]["accuracy"], "interval": side["intervals"]["accuracy"]})
            for name, side in evaluation["baselines"].items()
        },
    }


def rise(found: dict[str, Any], side: str) -> float:
    """By how much the log-probability of the answers of a side rose in training."""
    risen: float = found["tuned"][side]["value"] - found["base"][side]["value"]
    return risen


def shown(figure: dict[str, Any]) -> dict[str, float]:
    """A figure as the other files have it; without an interval where there is none."""
    if figure["interval"] is None:
        return {"value": figure["value"]}
    low, high = figure["interval"]
    return {"value": figure["value"], "low": low, "high": high}


def saved(folder: Path) -> float:
    """Tokens of the training pairs with each prompt once, as a share of those with each answer alone."""
    from ptune.training.rows.answer_rows import size

    pairs = training_pairs(folder)
    return sum(map(size, pairs)) / sum(map(len, pairs))


def training_pairs(folder: Path) -> Pairs:
    """The pairs that a run was trained on."""
    from ptune.codecs.chat import ChatCodec
    from ptune.config.recipe import Recipe
    from ptune.data.examples import dataset
    from ptune.data.shapes.preferences import Pairs
    from ptune.formats.run import Run

    run: Run = Run.open(folder)
    recipe = Recipe.load(run.recipe_path)
    data = dataset.load(recipe.data, recipe.chat, ChatCodec.open(run.codec_path), recipe.train.seed)
    return Pairs(data.train, "train")


if __name__ == "__main__":
    main()
