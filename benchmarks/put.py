"""How long an engine takes to serve new weights: python -m benchmarks.put [--work FOLDER]      (a minute, 2 GB)

SmolLM2-135M in float32, LoRA r16 on all linear layers (19.5 MB). `put` hands over arrays; `load_adapter` reads the same adapter
from the bundle's folder, which is in the system's file cache. Versions of other weights take turns, and no request runs. Beside
the call alone, the time until a request of one token under the new version has ended, of which the first copies the factors
into the step's inputs; the prompt has eight tokens. Pairs go A B B A. Writes results/put.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.goals import host
from benchmarks.random_adapters import bytes_of, with_adapters, write_adapter
from benchmarks.sides import interval, ratio, write

if TYPE_CHECKING:
    from ptune.engine.decoder.engine import Engine

PACKAGES = ("ptune", "onnxruntime", "numpy")
GOAL_MS = 50.0
PROMPT = tuple(range(100, 108))
VERSIONS = 3


def main() -> int:
    """Prints a row for each way and writes put.json; 1 where the goal is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--work", type=Path, default=None, help="folder that keeps the bundle")
    options.add_argument("--puts", type=int, default=21)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--dry-run", action="store_true", help="writes no file")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = chosen.work or Path(scratch)
        bundle = with_adapters(bare(work), work, 1)
        with closing(opened(bundle, chosen.threads)) as engine:
            calls, served = measured(engine, versions(bundle, work), chosen.puts)
        size = bytes_of(bundle / "adapters" / "random-00")
    rows = {
        way: {"ms": spread(calls[way]), "with_a_request_ms": spread(served[way])} for way in ("put", "load_adapter")
    }  # fmt: skip
    faster = ratio(calls["load_adapter"], calls["put"])
    kept = rows["put"]["ms"]["median"] < GOAL_MS
    for way, row in rows.items():
        print(
            f"{way:14} {row['ms']['median']:7.1f} ms, with a request {row['with_a_request_ms']['median']:7.1f} ms"
        )
    print(f"put is {faster} times as fast; goal {GOAL_MS:.0f} ms: {'kept' if kept else 'MISSED'}")
    document = {
        "command": f"python -m benchmarks.put --puts {chosen.puts} --threads {chosen.threads}",
        "adapter": {"bytes": size, "rank": 16, "layers": "all linear"},
        "goal_ms": GOAL_MS,
        "rows": rows,
        "load_adapter_vs_put": {"median": faster.median, "low": faster.low, "high": faster.high, "pairs": faster.pairs},
        "host": host(),
    }  # fmt: skip
    if not chosen.dry_run:
        print(write("put", document, PACKAGES))
    return 0 if kept else 1


def bare(work: Path) -> Path:
    """The bundle of the base alone, made where the folder lacks it."""
    import ptune
    from benchmarks.decode_tables import MODEL

    folder = work / "bundle"
    if not (folder / "manifest.json").is_file():
        ptune.export(ptune.Backbone(model=MODEL), folder, force=True)
    return folder


def opened(bundle: Path, threads: int) -> Engine:
    from ptune.engine.decoder.engine import Engine

    return Engine.open(bundle, threads=threads, max_rows=4, replay_golden=False)


def versions(bundle: Path, work: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Configurations and tensors of other weights each."""
    from safetensors.numpy import load_file

    from ptune.formats.bundle import Bundle

    folders = [
        write_adapter(Bundle.open(bundle), work / "versions" / str(seed), 100 + seed) for seed in range(VERSIONS)
    ]  # fmt: skip
    return [
        (json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors"))
        for folder in folders
    ]  # fmt: skip


def measured(
    engine: Engine, given: list[tuple[dict[str, Any], dict[str, Any]]], puts: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds of each call alone, and until a request under the new weights has ended; two of each first, uncounted."""
    calls: dict[str, list[float]] = {"put": [], "load_adapter": []}
    served: dict[str, list[float]] = {"put": [], "load_adapter": []}
    for turn in range(-2, puts):
        config, tensors = given[turn % VERSIONS]
        ways: list[tuple[str, str, Callable[[], object]]] = [
            ("put", "policy", lambda config=config, tensors=tensors: engine.put("policy", config, tensors)),  # type: ignore[misc]
            ("load_adapter", "random-00", lambda: engine.load_adapter("random-00")),
        ]
        for way, name, call in ways if turn % 2 == 0 else ways[::-1]:
            began_s = time.perf_counter()
            call()
            called_s = time.perf_counter()
            ask(engine, name)
            ended_s = time.perf_counter()
            if turn >= 0:
                calls[way].append(1000 * (called_s - began_s))
                served[way].append(1000 * (ended_s - began_s))
    return calls, served


def ask(engine: Engine, adapter: str) -> None:
    from ptune.engine.decoder.request import Request
    from ptune.engine.sampling import Sampling

    ((token,),) = engine.generate_all([Request(PROMPT, adapter, Sampling(temperature=0), max_tokens=1)])
    if token.finish != "length":
        raise SystemExit(f"a request ended with {token.finish}: {token.error}")


def spread(values: list[float]) -> dict[str, float]:
    """Median with a 95 % bootstrap interval."""
    low, high = interval(values, statistics.median)
    return {"median": statistics.median(values), "low": low, "high": high, "pairs": len(values)}


if __name__ == "__main__":
    sys.exit(main())
