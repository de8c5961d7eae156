"""Commands on Ray beside the plain ones: python -m benchmarks.ray_commands --bundle BUNDLE --work FOLDER     (20 minutes, idle)

The same work on the same two cores, as whole commands: plainly with two threads, and on a Ray cluster of this machine with two
workers of one thread each. So it shows what distribution costs, not what more machines bring, which one machine cannot show.

generate   1,000 rows of 48 tokens by SmolLM2-135M in int8; both outputs must have the same bytes
tune       four trials of 8 steps of `chat_lora`; plainly one after the other
train      16 steps of `chat_lora`, two gloo processes started by accelerate beside two workers; the same adapter, byte for byte

Sides take turns, three rounds (`--rounds`). Writes results/ray_commands.json: the seconds of each, and the median of plain / Ray
with its interval; commands that are not run (`--only`) keep theirs. `--only generate --rounds 1 --dry-run` tries whether everything works.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.decode import DATA
from benchmarks.goals import host
from benchmarks.sides import RESULTS, ratio, write

ROWS, TOKENS, ROUNDS = 1000, 48, 3
PTUNE = [sys.executable, "-m", "ptune"]
CPU = Path("recipes") / "accelerate" / "cpu.yaml"


@dataclass(frozen=True)
class Pair:
    """A command without and with Ray, each given a folder for what it writes. result: what both must have alike."""

    plain: Callable[[Path], list[str]]
    ray: Callable[[Path], list[str]]
    result: Callable[[Path], Any]


def pairs(bundle: Path, work: Path) -> dict[str, Pair]:
    rows = work / "rows.jsonl"
    lines = DATA.read_text(encoding="utf-8").splitlines()
    asked = [json.loads(lines[at % len(lines)])["messages"][:1] for at in range(ROWS)]
    rows.write_text(
        "".join(json.dumps({"messages": messages}) + "\n" for messages in asked), encoding="utf-8"
    )

    def generate(out: Path, *options: str) -> list[str]:
        command = [
            *PTUNE,
            "generate",
            str(bundle),
            "--input",
            str(rows),
            "--output",
            str(out / "answers.jsonl"),
        ]
        return [*command, "--max-tokens", str(TOKENS), "--profile", "int8", *options]

    def tune(out: Path, *options: str) -> list[str]:
        command = [
            *PTUNE,
            "tune",
            "chat_lora",
            "--space",
            "train.lr=1e-4|2e-4|4e-4|8e-4",
        ]
        return [*command, "--trials", "4", "--train.max-steps", "8", "--out", str(out / "search"), *options]

    train = ["chat_lora", "--train.max-steps", "16"]

    def plainly(out: Path) -> list[str]:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CPU)]
        launch += ["--num_processes", "2", "recipes/chat_lora.py", *train[1:]]
        return [*launch, "--out", str(out / "run")]

    return {
        "generate": Pair(
            lambda out: generate(out, "--threads", "2"),
            lambda out: generate(out, "--threads", "1", "--ray", "--workers", "2"),
            lambda out: hashlib.sha256((out / "answers.jsonl").read_bytes()).hexdigest(),
        ),
        "tune": Pair(
            tune,
            lambda out: tune(out, "--ray", "--workers", "2"),
            lambda out: sorted(trial["state"] for trial in json.loads((out / "search" / "tune.json").read_text())["trials"]),
        ),
        "train": Pair(
            plainly,
            lambda out: [*PTUNE, "train", *train, "--out", str(out / "run"), "--ray", "--workers", "2"],
            lambda out: hashlib.sha256((out / "run" / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest(),
        ),
    }  # fmt: skip


def seconds(command: list[str], out: Path) -> float:
    """Runs a command whole. Raises: SystemExit with what it said where it failed."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    if "accelerate.commands.launch" in command:
        environment["OMP_NUM_THREADS"] = "1"  # of each process
    began_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.perf_counter() - began_s


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--bundle", type=Path, required=True, help="of SmolLM2-135M, with a profile int8")
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--only", nargs="+", default=["generate", "tune", "train"])
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--dry-run", action="store_true", help="write no file")
    chosen = options.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, pair in pairs(chosen.bundle, chosen.work).items():
        if name not in chosen.only:
            continue
        took: dict[str, list[float]] = {"plain": [], "ray": []}
        for number in range(chosen.rounds):
            results = {}
            for side in ("plain", "ray") if number % 2 == 0 else ("ray", "plain"):
                out = chosen.work / name / side
                took[side].append(round(seconds(getattr(pair, side)(out), out), 2))
                results[side] = pair.result(out)
            if results["plain"] != results["ray"]:
                raise SystemExit(f"{name}: the two differ: {results}")
            print(name, number + 1, json.dumps(took), flush=True)
        ratios = ratio(took["plain"], took["ray"])
        found[name] = {
            "seconds": took,
            "ratio": {key: round(value, 3) for key, value in vars(ratios).items()},
        }
    command = "python -m benchmarks.ray_commands --bundle BUNDLE --work FOLDER"
    path = RESULTS / "ray_commands.json"
    if path.is_file():  # what was not run stays as it was measured
        found = {**json.loads(path.read_text(encoding="utf-8"))["rows"], **found}
    if not chosen.dry_run:
        write("ray_commands", {"command": command, "rows": found, "host": host()}, ("ptune", "ray", "torch"))


if __name__ == "__main__":
    main()
