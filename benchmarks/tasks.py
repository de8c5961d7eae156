"""What the recipes of classification, retrieval, recommendation and translation reach: python -m benchmarks.tasks --data FOLDER      (1 to 2 hours on 2 cores)

--only ROW [ROW…] runs some rows; the others stay in results/tasks.json as they are. A row that was cut off goes on where
it stopped, one that is done is not run again (--again runs it anew). FOLDER holds sentiment/tweets3.{train,test}.jsonl,
ner/gnome_ui.{train,test}.jsonl, images/fashion_mnist_6k.npz, recsys/debian_{deps,items}.csv,
and movielens100k.tab (or see benchmarks/movielens.py).

Each row is a shipped recipe with its own settings, on other data or on its own sample: `ptune train`, `ptune export`,
`ptune evaluate`, each a process of its own. A row whose recipe has other settings by now is dropped, and made anew when it
is asked for. The test files are read by the last command only; every choice (which step is kept) is made on a tenth of the
training file. Figures come with 95 % intervals (bootstrap over rows), from torch and from the exported bundle, with
baselines that saw the same training rows. Writes results/tasks.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import movielens
from benchmarks.sides import RESULTS, made, write

PACKAGES = (
    "ptune",
    "torch",
    "transformers",
    "peft",
    "onnxruntime",
    "scikit-learn",
    "seqeval",
    "sacrebleu",
    "timm",
)
TWEETS = {"files": ["sentiment/tweets3.train.jsonl"], "test": ["sentiment/tweets3.test.jsonl"]}
WORDS = {"files": ["ner/gnome_ui.train.jsonl"], "test": ["ner/gnome_ui.test.jsonl"]}
DEPENDS = {"files": ["recsys/debian_deps.csv"]}
CLOTHES = {"files": ["images/fashion_mnist_6k.npz:train"], "test": ["images/fashion_mnist_6k.npz:test"]}
ITEMS = "recsys/debian_items.csv"
MOVIES = {"files": [movielens.HAD]}


GAINS = {"chrf_gain": "chrf"}
"""A figure that is above the best baseline -> the figure that this is of. Of 100, as sacrebleu's figures are."""


@dataclass(frozen=True)
class Row:
    """A figure of a recipe on data; `goal` is for the figure itself."""

    recipe: str
    data: dict[str, list[str]]  # files by split; empty: the recipe's own sample
    metric: str
    goal: float | None = None
    items: str | None = None  # of recommendation: the catalogue
    withheld: int = 0  # of recommendation: items that training does not see


ROWS = {
    "sentiment_lora_accuracy": Row("sentiment_lora", TWEETS, "accuracy", 0.86),
    "sentiment_full_accuracy": Row("sentiment_full", TWEETS, "accuracy"),
    "sentiment_freeze_accuracy": Row("sentiment_freeze", TWEETS, "accuracy"),
    "fashion_lora_accuracy": Row("images_lora", CLOTHES, "accuracy", 0.905),
    "fashion_freeze_accuracy": Row("images_freeze", CLOTHES, "accuracy"),
    "ner_lora_f1": Row("ner_lora", WORDS, "f1", 0.66),
    "embed_recall_at_10": Row("embed_lora", {}, "recall@10"),
    "rerank_mrr": Row("rerank_lora", {}, "mrr"),
    "recommend_hr10": Row("recommend_lora", {}, "recall@10"),
    "recommend_hr10_new": Row("recommend_lora", {}, "recall@10", withheld=50),
    "recommend_hr10_warm": Row("recommend_lora", DEPENDS, "recall@10", 0.70, items=ITEMS),
    "recommend_hr10_cold": Row("recommend_lora", DEPENDS, "recall@10", 0.10, items=ITEMS, withheld=50),
    "recommend_hr10_films": Row("recommend_lora", MOVIES, "recall@10", items=movielens.ITEMS),
    "translate_chrf_gain": Row("translate_lora", {}, "chrf_gain"),
}


def recipe_of(name: str, row: Row, data: Path) -> Any:
    """The recipe that a row trains."""
    from ptune.config.read_recipe import read_recipe

    recipe = read_recipe(row.recipe)
    files = {split: tuple(data / file for file in files) for split, files in row.data.items()}
    changed: dict[str, Any] = {"name": name, "data": recipe.data.model_copy(update=files)}
    task: dict[str, Any] = {} if row.items is None else {"items": data / row.items}
    if row.withheld:
        task["withheld"] = row.withheld
    changed["task"] = recipe.task.model_copy(update=task)
    return recipe.model_copy(update=changed)


def measured(name: str, row: Row, data: Path, work: Path) -> dict[str, Any]:
    """Trains, exports and evaluates one row; what is done already is not done again. Raises: CalledProcessError."""
    run, bundle, recipe = work / "runs" / name, work / "bundles" / name, work / f"{name}.yaml"
    if row.data is MOVIES:
        data = movielens.prepared(data, work.resolve())
    if not run.is_dir():
        recipe_of(name, row, data).save(recipe)
    if _status(run) not in ("finished", "stopped early"):
        ptune(
            "train", str(recipe), "--out", str(run), *(["--resume"] if (run / "run.json").is_file() else [])
        )
    if not (bundle / "manifest.json").is_file():
        ptune("export", str(run), "--out", str(bundle))
    ptune("evaluate", str(run), "--bundle", str(bundle))
    return result(row, run)


def result(row: Row, run: Path) -> dict[str, Any]:
    """The row of tasks.json, from what the run's folder says."""
    from ptune.config.recipe import Recipe
    from ptune.formats.run import Run

    opened = Run(run)
    found, record = json.loads(opened.evaluation_path.read_text(encoding="utf-8")), opened.record()
    recipe = Recipe.load(opened.recipe_path)
    low, high = found["intervals"][row.metric]
    beside = GAINS.get(row.metric, row.metric)
    value = found["metrics"][row.metric]
    return {
        "value": value,
        "low": low,
        "high": high,
        "metric": row.metric,
        "goal": row.goal,
        "met": None if row.goal is None else value >= row.goal and (row.metric not in GAINS or low > 0),
        "rows": found["examples"],
        "onnx": found["sides"]["ONNX"]["metrics"][row.metric],
        "agreement": found["agreement"],
        "baselines": {name: side["metrics"][beside] for name, side in found["baselines"].items()},
        "figures": {
            "tuned": _figures(found),
            **{name: _figures(side) for name, side in found["baselines"].items()},
        },
        "seconds": record.seconds,
        "steps": record.steps,
        "recipe": row.recipe,
        "method": recipe.document()["method"],
        "train": recipe.document()["train"],
        "base": Path(recipe.backbone.model).name,
        "files": [{**file, "path": Path(file["path"]).name} for file in found["files"]],
        "hardware": {"instructions": record.instruction_set, "threads": record.threads},
        "versions": record.versions,
        **made(),
    }


def _figures(side: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Each figure of a side that has an interval, with it."""
    return {
        name: {"value": side["metrics"][name], "low": low, "high": high}
        for name, (low, high) in side["intervals"].items()
    }


def of_the_recipe(name: str, found: dict[str, Any]) -> bool:
    """Whether a kept row was trained with the settings that its recipe has today, as far as the row says them."""
    now = recipe_of(name, ROWS[name], Path()).document()
    return all(
        now[part].get(key) == value for part in ("method", "train") for key, value in found[part].items()
    )


def ptune(*words: str) -> None:
    """One command in a process of its own. Raises: CalledProcessError where it fails."""
    print(f"$ ptune {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "ptune", *words], check=True)


def line(name: str, row: dict[str, Any]) -> str:
    """A row as it is printed."""
    form = ".1f" if row["metric"] in GAINS else ".1%"
    beside = ", ".join(f"{kind} {value:{form}}" for kind, value in row["baselines"].items())
    goal = "" if row["goal"] is None else f"  goal {row['goal']:{form}} {'met' if row['met'] else 'MISSED'}"
    figure = f"{row['value']:{form}} [{row['low']:{form}}, {row['high']:{form}}]"
    return f"{name:<26} {figure:<24} ONNX {row['onnx']:{form}}{goal}  {beside}"


def _status(run: Path) -> str:
    path = run / "run.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["status"]) if path.is_file() else ""


def _known() -> dict[str, dict[str, Any]]:
    path = RESULTS / "tasks.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
    return {name: row for name, row in rows.items() if name in ROWS and of_the_recipe(name, row)}


def main() -> int:
    """Runs what is asked for and not done yet; 1 where a row failed or misses its goal."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    options.add_argument("--again", action="store_true", help="run rows that are done, too, in a new --work")
    options.add_argument(
        "--work", type=Path, default=Path("build/tasks"), help="where runs and bundles are kept"
    )
    chosen = options.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in chosen.only:
        if name in _known() and not chosen.again:
            print(f"{name}: done already")
            continue
        try:
            found = measured(name, ROWS[name], chosen.data.resolve(), chosen.work)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"{name}: FAILED, {error}", file=sys.stderr)
            continue
        rows = {**_known(), name: found}
        ordered = {known: rows[known] for known in ROWS if known in rows}
        write("tasks", {"command": "python -m benchmarks.tasks --data FOLDER", "rows": ordered}, PACKAGES)
    done = _known()
    print(*(line(name, row) for name, row in done.items()), sep="\n")
    missed = [name for name in chosen.only if done.get(name, {}).get("met") is False]
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
