"""Rows with goals: what was found, what had to be reached, and a file that keeps the rows of earlier calls."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.sides import RESULTS, Ratio, made, write

Row = dict[str, Any]
DISTURBED = 0.05  # of the cores' time


@dataclass(frozen=True)
class Goal:
    """What a row must reach, and what it is meant to reach; `more`: whether more is better."""

    must: float
    stretch: float
    more: bool = True

    def met(self, value: Ratio, limit: float) -> bool:
        """By the worse end of the interval."""
        return value.low >= limit if self.more else value.high <= limit


def judged(value: Ratio, goal: Goal | None, **more: Any) -> Row:
    """A row as it is kept: the value with its interval, and whether its goals are met (None: it has none)."""
    found: Row = {**asdict(value), "goal": None, "stretch": None, "met": None, "stretch_met": None}
    if goal is not None:
        found |= {"goal": goal.must, "stretch": goal.stretch}
        found |= {"met": goal.met(value, goal.must), "stretch_met": goal.met(value, goal.stretch)}
    return {**found, **more}


def shown(name: str, row: Row, beside: str = "") -> str:
    """A row in a line."""
    figures = f"{row['median']:.4g}  [{row['low']:.4g}, {row['high']:.4g}]"
    line = f"{name:<34} {figures:<30}"
    if row["goal"] is not None:
        sign = "≥" if row["stretch"] > row["goal"] else "≤"
        verdict = "met, stretch too" if row["stretch_met"] else "met" if row["met"] else "MISSED"
        line += f" goal {sign} {row['goal']} (stretch {row['stretch']}): {verdict}"
    return f"{line}   {beside}".rstrip()


def keep(name: str, document: Mapping[str, Any], packages: Sequence[str]) -> None:
    """Writes results/NAME.json; `rows` and `passes` of earlier calls stay where this one has none of that name.

    Each row has its own date and CPU. The machine and the versions at the file's end are those of the last call.
    """
    document = {**document, "rows": {key: {**row, **made()} for key, row in document["rows"].items()}}
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    merged = {key: {**before.get(key, {}), **document[key]} for key in ("rows", "passes")}
    write(name, {**document, **merged}, [one for one in packages if _installed(one)])


def host() -> dict[str, Any]:
    """What `benchmarks.sides.write` does not say of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"memory_gib": round(memory / 2**30, 1), "kernel": platform.release()}


def warn_of_others(share: float) -> None:
    """Says so where other programs had a part of the machine."""
    if share > DISTURBED:
        print(f"Other programs took {share:.0%} of the cores: what was measured is worth little.", flush=True)


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
