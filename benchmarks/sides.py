"""Two or more programs that do the same work in turns, and what their ratios are.

Each side is a process of its own that waits while another one works. A round runs every side once, in an order that
turns round each time (A B C, C B A, …), so that what drifts (heat, a neighbour) hits all alike.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Measured = dict[str, Any]
Side = Callable[[], Iterable[Measured]]
"""Prepares, then does one piece of work for every `next()` and yields what it measured."""


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios with a 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f}  [{self.low:.2f}, {self.high:.2f}]  {self.pairs} pairs"


def alternate(
    sides: Mapping[str, Side], rounds: int, *, threads: int, warm_up: int = 1
) -> dict[str, list[Measured]]:
    """Runs `rounds` rounds after `warm_up` unmeasured ones; returns what each side measured."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, side in sides.items():
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(side, theirs), name=name, daemon=True))
        processes[-1].start()
        pipes[name] = ours
        ours.recv()  # it is ready; the next one is prepared when this one is quiet
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for number in range(-warm_up, rounds):
        for name in list(sides) if number % 2 == 0 else list([*sides][::-1]):
            time.sleep(0.3)  # threads of the side before fall asleep
            pipes[name].send("next")
            measured = pipes[name].recv()
            if number >= 0:
                found[name].append(measured)
        print(f"round {number + 1}/{rounds}", flush=True)
    for process in processes:
        process.terminate()
    return found


def _serve(side: Side, pipe: Connection) -> None:
    steps = iter(side())
    pipe.send("ready")
    while pipe.recv() == "next":
        pipe.send(next(steps))


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """above / below, pair by pair."""
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    return Ratio(statistics.median(pairs), *interval(pairs, statistics.median), len(pairs))


def interval(values: Sequence[Any], statistic: Callable[[list[Any]], float]) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles of 10,000 resamples, seeded)."""
    chance = random.Random(0)
    found = sorted(statistic(chance.choices(values, k=len(values))) for _ in range(10_000))
    return found[249], found[9749]


def reset_peak() -> None:
    """Starts the count of this process's peak memory anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Peak resident memory of this process since `reset_peak`, or since it began."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def made() -> dict[str, str]:
    """Date and CPU, also of a row where several calls write a file."""
    return {"date": datetime.date.today().isoformat(), "cpu": _cpu()}


def write(name: str, document: dict[str, Any], packages: Sequence[str]) -> Path:
    """Writes results/NAME.json with the date, the machine and the versions that the figures depend on."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(described(document, packages), indent=1) + "\n", encoding="utf-8")
    return path


def described(document: Mapping[str, Any], packages: Sequence[str]) -> dict[str, Any]:
    """The document with date, machine and versions."""
    here = made()
    machine = {"cpu": here["cpu"], "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {**document, "date": here["date"], "machine": machine, "versions": versions}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()
