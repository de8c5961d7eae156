"""What the most used methods reach, need and forget: python -m benchmarks.choosing      (2 hours on one core)

Two data sets that ptune ships, each with the recipe that it is of: definitions in the words of Ambrose Bierce (SmolLM2-135M, chat)
and the sentiment of tweets (MiniLM, a classifier). Every method trains on the same rows in the same order, so on equal tokens, and
is measured on test rows that chose nothing. Each has three rates, that of its paper or of PEFT's examples, a third of it and
three times as much, since the trainings are short; the loss on rows split off the training file chooses one, with the first seed. The other seeds train
with that rate.

Figures are means over the seeds, with 95 % intervals (bootstrap over test rows), and differences to Lora are paired row by row.
Forgetting is the loss a token on conversations of another kind (benchmarks/data/chat.jsonl: chitchat) after training, less that of
the base. Time is CPU seconds of this process, one thread, so that what else runs on the machine does not count.

A method that is done has its line in WORK/choosing.jsonl and is not run again; the table is made of all lines, with --table alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.choosing_runs import CHOICES, SEEDS, SETS, Ground, mean_of, measured, untrained
from benchmarks.sides import interval, write

PACKAGES = ("ptune", "torch", "transformers", "peft")


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by set and method, with intervals."""
    by = {(line["set"], line["method"]): line for line in lines}
    return {of: {name: row(by, of, name) for name in _done(by, of)} for of in SETS}


def _done(by: Mapping[tuple[str, str], Any], of: str) -> Iterator[str]:
    return (name for name in CHOICES if (of, name) in by and (of, "Lora") in by)


def row(by: Mapping[tuple[str, str], dict[str, Any]], of: str, name: str) -> dict[str, Any]:
    """The figures of a method on a set."""
    line, plain = by[of, name], by[of, "Lora"]
    seeds = line["seeds"]
    found: dict[str, Any] = {
        key: line[key] for key in ("lr", "swept", "parameters", "planned_bytes", "tokens")
    }
    found["cpu_s"] = sum(one["cpu_s"] for one in seeds) / len(seeds)
    found["loss"] = _interval(_over_seeds(seeds, "losses"))
    found["loss_of_each_seed"] = [mean_of(one["losses"]) for one in seeds]
    pairs = [
        (own - other, targets)
        for (own, targets), (other, _) in zip(
            _over_seeds(seeds, "losses"), _over_seeds(plain["seeds"], "losses"), strict=True
        )
    ]
    found["loss_less_loras"] = _interval(pairs)
    if of == "sentiment":
        right = [(sum(each) / len(seeds), 1) for each in zip(*(one["right"] for one in seeds), strict=True)]
        found["accuracy"] = _interval(right)
    else:
        before = by["chat", "base"]["seeds"][0]["other"]
        change = [
            (after - was, targets)
            for (after, targets), (was, _) in zip(_over_seeds(seeds, "other"), before, strict=True)
        ]
        found["forgotten"] = _interval(change)
    return found


def _over_seeds(seeds: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, int]]:
    """Of each row: the mean of its sums over the seeds, and its targets."""
    rows = zip(*(one[key] for one in seeds), strict=True)
    return [(sum(total for total, _ in row) / len(seeds), row[0][1]) for row in rows]


def _interval(sums: Sequence[tuple[float, int]]) -> dict[str, float]:
    low, high = interval(sums, mean_of)
    return {"value": mean_of(sums), "low": low, "high": high}


def table(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Both sets as Markdown, best loss first."""
    return "\n\n".join(_of_set(of, rows[of]) for of in SETS if rows.get(of))


def _of_set(of: str, methods: Mapping[str, Mapping[str, Any]]) -> str:
    last = "forgotten" if of == "chat" else "accuracy"
    lines = [
        f"| {of} | loss | less Lora's | {last} | trained | memory, GB | CPU s a step | rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in sorted(methods.items(), key=lambda item: item[1]["loss"]["value"]):
        less = "" if name == "Lora" else _shown(found["loss_less_loras"], "+.3f")
        end = _shown(found[last], "+.3f" if of == "chat" else ".1%")
        lines.append(
            f"| {name} | {_shown(found['loss'], '.3f')} | {less} | {end} | {found['parameters']:,} |"
            f" {found['planned_bytes'] / 1e9:.2f} | {found['cpu_s'] / SETS[of].steps:.2f} | {found['lr']:g} |"
        )
    return "\n".join(lines)


def _shown(found: Mapping[str, float], form: str) -> str:
    value, low, high = (f"{found[key]:{form}}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def finished(work: Path) -> list[dict[str, Any]]:
    """The lines of what is done."""
    path = work / "choosing.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    )


def report(work: Path) -> None:
    """Writes results/choosing.json and prints the figures."""
    lines = finished(work)
    rows = summary(lines)
    base = next(line for line in lines if line["method"] == "base")["seeds"][0]
    before = {"loss": _interval(base["losses"]), "other": _interval(base["other"])}
    document = {
        "command": "python -m benchmarks.choosing",
        "steps": {name: one.steps for name, one in SETS.items()},
        "seeds": list(SEEDS),
        "base": before,
        "rows": rows,
    }
    write("choosing", document, PACKAGES)
    for of, methods in rows.items():
        for name, found in methods.items():
            score = found.get("accuracy") or found["forgotten"]
            print(
                f"{of:<10} {name:<17} {found['loss']['value']:.3f} {score['value']:.3f} {found['cpu_s']:.1f} CPU s"
            )


_read: dict[str, Ground] = {}  # in a process that was forked: what the one before it has read


def _one(of: str, name: str, folder: Path) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    ground = _read[of]
    return untrained(ground) if name == "base" else measured(ground, name, folder)


def run(ground: Ground, names: Sequence[str], work: Path, beside: int) -> None:
    """Measures methods in processes that begin with what is read already, and notes each that is done."""
    _read[ground.of] = ground
    with ProcessPoolExecutor(beside, multiprocessing.get_context("fork")) as pool:
        for waiting in as_completed([pool.submit(_one, ground.of, name, work / "run") for name in names]):
            line = waiting.result()
            with (work / "choosing.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{ground.of} {line['method']}: {mean_of(line['seeds'][0]['losses']):.4f}", flush=True)


def main() -> int:
    """Runs what is not done yet, and writes the table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--work", type=Path, default=Path("build/choosing"), help="where results are kept")
    options.add_argument("--only", nargs="+", choices=CHOICES, default=list(CHOICES), metavar="METHOD")
    options.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    options.add_argument("--beside", type=int, default=1, help="methods at a time, each with one thread")
    options.add_argument("--table", action="store_true", help="run nothing")
    chosen = options.parse_args()
    (chosen.work / "run").mkdir(parents=True, exist_ok=True)
    done = {(line["set"], line["method"]) for line in finished(chosen.work)}
    for of in [] if chosen.table else chosen.sets:
        of_base = ["base"] if of == "chat" else []
        wanted = [*of_base, *(name for name in chosen.only if of in CHOICES[name].lr)]
        left = [name for name in wanted if (of, name) not in done]
        if left:
            run(Ground.read(of, chosen.work / "run"), left, chosen.work, chosen.beside)
    report(chosen.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
