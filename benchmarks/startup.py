"""From nothing to the first token, and the memory held then: python -m benchmarks.startup --shape 1b --work FOLDER

The bundle and the GGUF files of `benchmarks.decode`, which writes them into FOLDER. Each round starts every side anew, in a
process of its own: the program and its weights are read (from the page cache, where they fit), then a prompt of 64 tokens
is answered with one token, and another with 64. Without --shape it is SmolLM2-135M, and ptune also runs its own proof.

ptune, ptune int4     Python, onnxruntime and the engine as `ptune serve` opens it, but for HTTP; profiles int8 and int4
llama.cpp Q8_0, Q4_1  its library (--llama-library, or the xllamacpp wheel's) from Python, one sequence of 2,048 tokens

startup_*    seconds from the process's beginning until the first token: ours / theirs
resident_*   memory after the second answer (proportional set size: mapped files count as far as they are in memory)

Ratios are medians of pairs with a 95 % bootstrap interval; less is better. Writes results/startup_1b.json or startup.json.

    --pairs 1 --dry-run     tries whether everything works
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import decode_sides
from benchmarks.decode import DATA, PACKAGES, exported, write_ungated
from benchmarks.decode_quality import conversations
from benchmarks.decode_tables import INT4, MODEL, OURS, Q4, Q8, windows
from benchmarks.gguf_files import SHAPES, source_file, write_q8_0, write_random
from benchmarks.goals import host, judged, keep, shown
from benchmarks.sides import Measured, ratio
from benchmarks.workers import Open, Piece, Work, Workers
from ptune.formats.bundle import Bundle
from ptune.llama_cpp.library import system_info, wheel_library

PAIRS, NEW = 11, 64
AGAINST = {"int8_vs_llamacpp_q8": (OURS, Q8), "int4_vs_llamacpp_q4": (INT4, Q4)}


def engine(folder: Path, profile: str, threads: int) -> Work:
    """As `ptune serve` opens it."""
    from ptune.engine.decoder.engine import Engine

    bundle = Bundle.open(folder)
    gated = bundle.golden_file(profile).is_file()  # of random weights no profile is
    return with_memory(
        decode_sides.answering(Engine.open(bundle, profile=profile, threads=threads, replay_golden=gated))
    )


def llama_cpp(library: Path, model: Path, threads: int) -> Work:
    """With room for one sequence."""
    return with_memory(decode_sides.llama_cpp(library, model, threads, sequences=1))


def with_memory(work: Work) -> Work:
    """The same, which also tells what memory its process holds afterwards."""

    def measured(**asked: Any) -> Measured:
        return {**work(**asked), "resident_bytes": resident_bytes()}

    return measured


def resident_bytes() -> int:
    """Proportional set size of this process: pages that others map too count by their share."""
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return int(rollup.split("\nPss:")[1].split()[0]) * 1024


def started(side: Open, prompts: Iterator[list[int]], threads: int) -> Measured:
    """One process from its beginning to its end."""
    began_s = time.perf_counter()
    with Workers({"side": side}, threads=threads) as worker:
        ready_s = time.perf_counter() - began_s
        first = worker.ask(Piece("side", {"prompts": [next(prompts)], "new_tokens": 1}))
        then = worker.ask(Piece("side", {"prompts": [next(prompts)], "new_tokens": NEW}))
    return {
        "ready_s": ready_s,
        "first_token_s": ready_s + first["prefill_s"],
        "resident_bytes": then["resident_bytes"],
        "token": first["tokens"][0][0],
    }


def measured(
    sides: Mapping[str, Open], prompts: Callable[[], Iterator[list[int]]], pairs: int, threads: int
) -> dict[str, list[Measured]]:
    """Rounds in which every side is started once, after one that is not counted; the order turns round each time."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for number in range(-1, pairs):
        for name in list(sides) if number % 2 == 0 else [*sides][::-1]:
            one = started(sides[name], prompts(), threads)
            if number >= 0:
                found[name].append(one)
    return found


def main() -> int:
    """Prints the rows, writes results/startup….json."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--shape", choices=SHAPES)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--llama-library", type=Path, default=wheel_library())
    options.add_argument("--pairs", type=int, default=PAIRS)
    options.add_argument("--dry-run", action="store_true", help="write no file")
    chosen = options.parse_args()
    if chosen.llama_library is None:
        options.error("there is no llama.cpp to compare with: pip install xllamacpp, or give --llama-library")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    work, threads = chosen.work, chosen.threads
    work.mkdir(parents=True, exist_ok=True)
    model = MODEL
    if chosen.shape:
        model = str(write_random(source_file(MODEL), SHAPES[chosen.shape], work / f"{chosen.shape}.gguf"))
    bundle = exported(model, work / "bundle", "fp32,int8,int4", threads)
    if chosen.shape:
        write_ungated(Bundle.open(bundle), ("int8", "int4"))
    write_q8_0(source_file(model), work / "q8_0.gguf")
    text = [token for one in conversations([DATA], bundle, 2, 2000) for token in one]
    sides: dict[str, Open] = {
        OURS: functools.partial(engine, bundle, "int8", threads),
        INT4: functools.partial(engine, bundle, "int4", threads),
        Q8: functools.partial(llama_cpp, chosen.llama_library, work / "q8_0.gguf", threads),
        Q4: functools.partial(llama_cpp, chosen.llama_library, source_file(model), threads),
    }
    found = measured(sides, lambda: windows(text, "b1"), chosen.pairs, threads)
    rows = {
        f"{what}_{row}": judged(ratio(*([one[key] for one in found[side]] for side in pair)), None)
        for what, key in (("startup", "first_token_s"), ("resident", "resident_bytes"))
        for row, pair in AGAINST.items()
    }
    for name, each in found.items():
        seconds, size = (
            statistics.median(one[key] for one in each) for key in ("first_token_s", "resident_bytes")
        )
        print(f"{name:<22} {seconds:6.2f} s to the first token   {size / 1e9:6.2f} GB resident")
    for name, row in rows.items():
        print(shown(name, row))
    document = {
        "command": f"python -m benchmarks.startup{f' --shape {chosen.shape}' if chosen.shape else ''} --work FOLDER",
        "model": chosen.shape or MODEL, "threads": threads, "host": host(),
        "llama_cpp": {"library": chosen.llama_library.name, "built_for": system_info(chosen.llama_library)},
        "rows": rows, "passes": found,
        "medians": {
            name: {key: statistics.median(one[key] for one in each) for key in ("ready_s", "first_token_s", "resident_bytes")}
            for name, each in found.items()
        },
    }  # fmt: skip
    if not chosen.dry_run:
        keep("_".join(filter(None, ["startup", chosen.shape])), document, PACKAGES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
