"""A recommendation among a million items: python -m benchmarks.item_index --work FOLDER

Two catalogues of 1,000,000 items with vectors of 384 numbers of length 1. `clustered`: one of 10,000 random directions plus
normal noise that is as long as it; `isotropic`: normal noise alone, the worst case, as nothing is near anything. Of each item
20 others (at the same random distances) are known to be had together with it, at random shares. They are made at the first
run (some minutes, 6 GB of FOLDER for both) and read again at later ones.

A query is `answer`, as /v1/recommend calls it: 10 items of history (of one direction, where there are any), the 10 best
items with titles, scores and reasons. Two sides, each all queries in a row (OpenBLAS' threads go on waiting busily after a
product, and would take a core from the other side): int8 (every item's product with 8-bit codes, the 140 best ordered in
float32) and float32 (numpy). Recall@10 is of int8 against float32, over all queries, at the weight that
is asked with (0: titles alone; .5: half of what is had together). Open: reading, checking and rounding the items, one time.
Writes results/item_index.json.

    --items 20000 --queries 20 --dry-run      tries whether everything works
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

PACKAGES = ("ptune", "numpy", "numkong")
WIDTH, DIRECTIONS, TOGETHER = 384, 10_000, 20
HISTORY, FIRST = 10, 10
GOAL_MS, GOAL_RECALL = 50.0, 0.95
KINDS = ("clustered", "isotropic")
_BLOCK = 50_000


def made(kind: str, items: int, folder: Path) -> float:
    """Writes a catalogue; returns the seconds it took."""
    import numpy as np

    from ptune.tasks.recommendation.index import ItemIndex

    began_s = time.perf_counter()
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((DIRECTIONS, WIDTH), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = np.empty((items, WIDTH), np.float32)
    for start in range(0, items, _BLOCK):
        rows = vectors[start : start + _BLOCK]
        chance.standard_normal(rows.shape, dtype=np.float32, out=rows)
        if kind == "clustered":
            rows /= np.float32(WIDTH**0.5)
            rows += centres[np.arange(start, start + len(rows)) % DIRECTIONS]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    apart = chance.choice(np.arange(1, items), TOGETHER, replace=False)
    columns = (np.arange(items)[:, None] + apart) % items
    columns.sort(axis=1)
    values = chance.random((items, TOGETHER), dtype=np.float32)
    starts = np.arange(0, items * TOGETHER + 1, TOGETHER, dtype=np.int64)
    names = [f"item {at}" for at in range(items)]
    folder.mkdir(parents=True)
    ItemIndex(
        names, names, vectors, starts, columns.astype(np.int32).reshape(-1), values.reshape(-1), 0.5
    ).save(folder)
    return time.perf_counter() - began_s


def histories(kind: str, items: int, count: int) -> list[list[int]]:
    """Numbers of items; of the clustered ones those of one direction."""
    import numpy as np

    chance = np.random.default_rng(1)
    if kind == "isotropic":
        return chance.integers(0, items, (count, HISTORY)).tolist()
    directions = chance.integers(0, min(DIRECTIONS, items), count)
    return [
        list(range(at, items, DIRECTIONS))[:HISTORY] if items > DIRECTIONS else [at]
        for at in directions.tolist()
    ]


def measured(kind: str, folder: Path, queries: int, threads: int) -> dict[str, Any]:
    """The row of a catalogue."""
    import numpy as np

    from ptune.tasks.recommendation.index import ARRAYS, TITLES, ItemIndex
    from ptune.tasks.recommendation.infer import RecommendQuery, answer
    from ptune.tasks.recommendation.int8_scan import Int8Scan

    began_s = time.perf_counter()
    exact = ItemIndex.open(folder)
    read_s = time.perf_counter() - began_s
    scan = Int8Scan(exact.vectors, threads)
    rounded_s = time.perf_counter() - began_s - read_s
    sides = {"int8": replace(exact, scan=scan), "float32": exact}
    for index in sides.values():
        assert index.place  # made once, at the first query
    nothing = np.zeros((0, exact.vectors.shape[1]), np.float32)
    row: dict[str, Any] = {"items": len(exact.items), "width": exact.vectors.shape[1], "queries": queries}
    for weight in (0.0, 0.5):
        spent: dict[str, list[float]] = {name: [] for name in sides}
        found: dict[str, list[set[str]]] = {name: [] for name in sides}
        for name, index in sides.items():
            for number, history in enumerate(histories(kind, len(exact.items), queries + 2)):
                query = RecommendQuery([exact.items[at] for at in history], FIRST, weight=weight)
                spent_s, best = _timed(
                    lambda index=index, query=query: answer(index, query, nothing)  # type: ignore[misc]
                )
                if number >= 2:  # the first two warm up
                    spent[name].append(1000 * spent_s)
                    found[name].append({one.item for one in best})
        pairs = zip(found["int8"], found["float32"], strict=True)
        row[f"weight {weight:g}"] = {
            "recall_at_10": sum(len(one & other) for one, other in pairs) / (queries * FIRST),
            **{
                f"{name}_{figure}_ms": round(float(np.percentile(values, percent)), 2)
                for name, values in spent.items()
                for figure, percent in (("p50", 50), ("p95", 95))
            },
        }
    return row | {
        "read_s": round(read_s, 2),
        "rounded_s": round(rounded_s, 2),
        "bytes_on_disk": sum((folder / name).stat().st_size for name in (ARRAYS, TITLES)),
        "bytes_float32": exact.vectors.nbytes,
        "bytes_int8": scan.codes.nbytes + scan.scales.nbytes,
    }


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began_s = time.perf_counter()
    found = work()
    return time.perf_counter() - began_s, found


def met(row: dict[str, Any]) -> bool:
    """Whether a catalogue's row reaches the goal at both weights."""
    return all(
        said["int8_p95_ms"] < GOAL_MS and said["recall_at_10"] >= GOAL_RECALL
        for name, said in row.items()
        if name.startswith("weight")
    )


def main() -> int:
    """Prints and writes a row a catalogue; 1 where the goal is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--work", type=Path, required=True, help="where catalogues are kept")
    options.add_argument("--items", type=int, default=1_000_000)
    options.add_argument("--queries", type=int, default=200)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--only-make", action="store_true", help="make the catalogues and measure nothing")
    options.add_argument("--dry-run", action="store_true", help="write no file")
    chosen = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(chosen.threads)
    from benchmarks.goals import host
    from benchmarks.sides import write

    rows = {}
    for kind in chosen.kinds:
        folder = chosen.work / f"{kind}-{chosen.items}"
        if not folder.is_dir():
            print(f"{kind}: made in {made(kind, chosen.items, folder):.0f} s", flush=True)
        if not chosen.only_make:
            rows[kind] = measured(kind, folder, chosen.queries, chosen.threads)
            rows[kind]["met"] = met(rows[kind])
            print(kind, rows[kind], flush=True)
    if not chosen.dry_run and not chosen.only_make:
        document = {
            "command": "python -m benchmarks.item_index --work FOLDER",
            "threads": chosen.threads,
            "goal": {"p95_ms": GOAL_MS, "recall_at_10": GOAL_RECALL},
            "rows": rows,
            "host": host(),
        }
        write("item_index", document, PACKAGES)
    return 0 if all(row["met"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
