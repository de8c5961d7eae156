"""Training speed and memory against Unsloth, LLaMA-Factory and Axolotl: python -m benchmarks.train_peers --unsloth PYTHON
--llamafactory PYTHON --axolotl PYTHON   (25 minutes on 2 cores, 16 GB)

PYTHON is that of an environment of the peer's own, each with the versions that it asks for:

    python -m venv V && V/bin/pip install unsloth==2026.10.9
    python -m venv V && V/bin/pip install llamafactory==0.9.5
    python -m venv V && V/bin/pip install axolotl==0.19.0

(a torch for CPUs put in first spares the download of CUDA). A peer without an option is left out. --rounds 1 --only "unsloth
fp32" tries whether a side works, without a result.

The work is that of train.py: the same tokens, targets, initial adapter, optimiser and learning rate, on as many threads.
Each peer loads its model and trains by its own entry point (train_peer_side.py), in each of its VARIANTS, without gradient
checkpointing. The sides of one peer and both of ptune take their steps in turns, peer after peer, so that all fit into
memory. A peer at its best is the fastest of its variants, ptune the faster of float32 and bfloat16.

A side that stops before its first step is told with its last words. One whose losses are further from those of ptune in
float32 than SAME allows did other work, and is judged in no row.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.sides import Measured, Ratio, Side, alternate, ratio, write
from benchmarks.train import STEPS, THREADS, furthest, peaks, prepare, ptune, table

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "unsloth": {
        "fp32": {"dtype": "float32"},
        "bf16": {"dtype": "bfloat16"},
        "fp32 compiled": {"dtype": "float32", "compiled": True},
        "bf16 compiled": {"dtype": "bfloat16", "compiled": True},
    },
    "llamafactory": {
        "fp32": {"dtype": "float32"},
        "bf16": {"dtype": "bfloat16"},
        "fp32 packed": {"dtype": "float32", "packed": True},
        "bf16 packed": {"dtype": "bfloat16", "packed": True},
    },
    "axolotl": {
        "fp32": {"dtype": "float32"},
        "fp32 packed": {"dtype": "float32", "packed": True},
        "fp32 packed, kernels": {"dtype": "float32", "packed": True, "kernels": True},
        "bf16": {"dtype": "bfloat16"},
        # The rest sets what its config cannot say: without it bfloat16 is refused on a CPU.
        "bf16, use_cpu": {"dtype": "bfloat16", "use_cpu": True},
        "bf16 packed, use_cpu": {"dtype": "bfloat16", "packed": True, "use_cpu": True},
        "bf16 packed, kernels, use_cpu": {
            "dtype": "bfloat16",
            "packed": True,
            "kernels": True,
            "use_cpu": True,
        },
    },
}
SAME = {"float32": 1e-3, "bfloat16": 0.1}
"""How far the losses may be from those of ptune in float32; its own in bfloat16 are 0.05 away."""
OURS = {"ptune": "float32", "ptune bf16": "bfloat16"}
SCRIPT = Path(__file__).with_name("train_peer_side.py")
PACKAGES = ("ptune", "torch", "transformers", "peft", "accelerate")
PEER_PACKAGES = ("unsloth_zoo", "torch", "transformers", "trl", "peft", "accelerate")
VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class StoppedError(Exception):
    """A peer ended before it took the step that it was asked for; what it said last."""


def peer(command: list[str], log: Path) -> Iterator[Measured]:
    """A peer's steps, one for each line that is written to it. Raises: StoppedError."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    alone = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1"}
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**kept, **alone, "OMP_NUM_THREADS": str(THREADS)},
        ) as process,
    ):
        assert process.stdin is not None  # as asked for above
        assert process.stdout is not None
        while True:
            try:
                process.stdin.write("next\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise StoppedError(last_words(log)) from None
            line = process.stdout.readline()
            if not line:
                raise StoppedError(last_words(log))
            yield json.loads(line)


def last_words(log: Path) -> str:
    """The last line that names an error, or the last one at all."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    spoken = [line for line in lines if line] or ["it said nothing"]
    errors = [line for line in spoken if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
    return (errors or spoken)[-1]


def first_step(side: Side) -> str | None:
    """Tries whether a side gets as far as a step: what stopped it, else None."""
    steps = iter(side())
    try:
        next(steps)
    except StoppedError as stopped:
        return str(stopped)
    finally:
        steps.close()  # type: ignore[attr-defined]  # a generator: its process gets no more lines, and ends
    return None


def versions(python: str, name: str) -> dict[str, str]:
    """What a peer's environment has."""
    command = [python, "-c", VERSIONS, name, *PEER_PACKAGES]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def main() -> int:
    """Prints the tables, writes results/train_peers.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in VARIANTS:
        parser.add_argument(f"--{name}", metavar="PYTHON", help="of the peer's environment")
    parser.add_argument(
        "--rounds", type=int, default=STEPS - 1, help=f"steps that are measured, below {STEPS}"
    )
    parser.add_argument("--only", default="", help="sides whose names contain this; then nothing is judged")
    chosen = parser.parse_args()
    pythons = {name: python for name in VARIANTS if (python := getattr(chosen, name))}
    left_out = [name for name in VARIANTS if name not in pythons]
    if left_out:
        print(f"left out, for want of an environment: {', '.join(left_out)}")
    found: dict[str, dict[str, list[Measured]]] = {}
    stopped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as own:
        folder = Path(own)
        prepare(folder)
        for name, python in pythons.items():
            theirs = sides(name, python, folder, chosen.only, stopped)
            ours: dict[str, Side] = {
                side: functools.partial(ptune, folder, False, dtype)
                for side, dtype in OURS.items()
                if chosen.only in side
            }
            if theirs or chosen.only:
                found[name] = alternate({**ours, **theirs}, chosen.rounds, threads=THREADS)
                table(found[name])
    if chosen.only:
        return 0
    return report(found, stopped, left_out, {name: versions(pythons[name], name) for name in pythons})


def sides(name: str, python: str, folder: Path, only: str, stopped: dict[str, str]) -> dict[str, Side]:
    """The sides of a peer that take a step; what stopped the others is put into `stopped`."""
    found: dict[str, Side] = {}
    for label, variant in VARIANTS[name].items():
        side = f"{name} {label}"
        if only not in side:
            continue
        command = [python, str(SCRIPT), name, str(folder), json.dumps(variant)]
        found[side] = functools.partial(peer, command, folder / f"{side}.log")
        print(f"trying {side}", flush=True)
        if (said := first_step(found[side])) is not None:
            stopped[side] = said
            print(f"{side} stopped: {said}")
            del found[side]
    return found


def report(
    found: dict[str, dict[str, list[Measured]]],
    stopped: dict[str, str],
    left_out: list[str],
    peer_versions: dict[str, dict[str, str]],
) -> int:
    """Each peer's rows; 1 where a side did other work."""
    rows: dict[str, Ratio] = {}
    best: dict[str, str] = {}
    ours: dict[str, str] = {}
    judged: dict[str, dict[str, Any]] = {}
    for name, steps in found.items():
        seconds = {side: [step["seconds"] for step in taken] for side, taken in steps.items()}
        judged |= {side: judgement(name, side, steps) for side in steps if side not in OURS}
        same = [side for side in steps if side not in OURS and judged[side]["same_work"]]
        if not same:
            continue
        middle = {side: statistics.median(taken) for side, taken in seconds.items()}
        best[name], ours[name] = min(same, key=middle.__getitem__), min(OURS, key=middle.__getitem__)
        rows[f"tokens_per_s_vs_{name}"] = ratio(seconds[best[name]], seconds[ours[name]])
        rows[f"peak_memory_vs_{name}"] = peaks(steps[ours[name]], steps[best[name]])
        print(f"{name} at its best here: {best[name]}; ptune: {ours[name]}")
    for row, value in rows.items():
        print(f"{row:<34} {value}")
    for side, verdict in judged.items():
        print(f"{side:<34} {'same work' if verdict['same_work'] else 'OTHER WORK'}, {verdict}")
    document = {
        "command": "python -m benchmarks.train_peers "
        + " ".join(f"--{name} PYTHON" for name in VARIANTS if name not in left_out),
        "threads": THREADS,
        "left_out": left_out,
        "stopped": stopped,
        "best": best,
        "ptune_best": ours,
        "peer_versions": peer_versions,
        "judged": judged,
        "rows": {name: asdict(value) for name, value in rows.items()},
        "steps": found,
    }
    print(write("train_peers", document, PACKAGES))
    return 0 if all(verdict["same_work"] for verdict in judged.values()) else 1


def judgement(name: str, side: str, steps: dict[str, list[Measured]]) -> dict[str, Any]:
    """How far a side's losses are from ptune's in float32, and whether that is the same work."""
    drift = furthest(steps["ptune"], steps[side])
    limit = SAME[VARIANTS[name][side.removeprefix(f"{name} ")]["dtype"]]
    return {"largest_loss_difference": drift, "same_work": drift <= limit}


if __name__ == "__main__":
    sys.exit(main())
