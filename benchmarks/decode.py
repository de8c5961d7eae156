"""Decoding against llama.cpp, transformers and onnxruntime-genai: python -m benchmarks.decode --work FOLDER --data FILE…

SmolLM2-135M (12 minutes on 2 quiet cores; pip install xllamacpp; pip install --no-deps onnxruntime-genai, or its side is
left out). All sides stand on the same dequantised weights, get the same prompts as tokens, answer every row greedily with the
same number of tokens whatever these say of an end, and take turns on the same number of threads.

ptune         the engine: its thread, scheduler and sampling, all but HTTP; profile int8 (--profile), fp32 and int4
ptune +N      the same with N rows under N different LoRA adapters, r16 on all linear layers, of random weights
llama.cpp     its C interface straight, without its server or sampler (ptune.llama_cpp.library): Q8_0 of the same weights, and
              the Q4_1 file that the weights come from. The library of the xllamacpp wheel, or --llama-library libllama.so.
              With --llama-quantize also Q4_0 and Q4_K_M, which that program makes of the Q4_1 file
transformers  generate() in float32, sdpa
genai         onnxruntime-genai, int4 by its own builder

Decoding counts tokens a second while all rows generate: from when the last row has its first token until the first row ends.
`whole` rows count the tokens of whole answers, prompts included in the time: 64 + 64 tokens, and 512 + 128. `first` and `prefill`
rows are the time from a prompt to the first token that follows. A ratio is the median of pairs, with a 95 % bootstrap
interval; a goal is met where the worse end of the interval meets it. The rows are benchmarks/results/decode.json's:

    --only ROW…    measures some; the others stay as they are in the file
    --shape 1b     a Llama of that shape with random weights, the same in a GGUF file; results/decode_1b.json
    --machine amx  keeps the rows of another machine beside these: results/decode_amx.json
    --pairs 1 --new-tokens 4 --quality-tokens 300 --dry-run     tries whether everything works
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import random_adapters
from benchmarks.decode_quality import conversations, quality
from benchmarks.decode_tables import (
    ADAPTER_GOAL,
    ADAPTERS,
    BANDWIDTH,
    FP32,
    GENAI,
    GOALS_OF_LARGE,
    INT4,
    LLAMA_CPP,
    MEMORY,
    MODEL,
    NAMES,
    OURS,
    Q4,
    Q4_0,
    Q4_K_M,
    Q8,
    QUALITY,
    QUANTIZED,
    RATIOS,
    TABLES,
    Figure,
    Setting,
    asked,
    genai_folder,
    sides,
    windows,
)
from benchmarks.gguf_files import SHAPES, source_file, write_q8_0, write_quantized, write_random
from benchmarks.goals import Goal, Row, host, judged, keep, shown, warn_of_others
from benchmarks.sides import RESULTS, Measured, Ratio, interval, ratio
from benchmarks.workers import Piece, Workers, disturbed
from ptune.formats.bundle import Bundle
from ptune.llama_cpp.library import system_info, wheel_library

DATA = Path(__file__).parent / "data" / "chat.jsonl"
PAIRS, NEW, TOKENS = 11, 64, 12_000
LEAST_TOKENS = 10_000  # that quality is judged by
PEER_QUALITY_TOKENS = 2500  # of a peer's quality, which has no goal
PACKAGES = (
    "ptune",
    "onnxruntime",
    "torch",
    "transformers",
    "numpy",
    "gguf",
    "xllamacpp",
    "onnxruntime-genai",
)


def measure(setting: Setting, workers: Workers, table: str, text: Sequence[int]) -> dict[str, list[Measured]]:
    """All pieces of a table, in turns. Raises: SystemExit where the sides did not do the same."""
    shape = TABLES[table]
    prompts = windows(text, table)
    new_tokens = shape.new or setting.new_tokens
    warm_up = asked(setting, table, prompts, min(new_tokens, 4))
    found = workers.rounds(
        lambda _: asked(setting, table, prompts, new_tokens), setting.pairs, warm_up=warm_up
    )
    check_same(table, found, new_tokens)
    if new_tokens > 1 and any(
        "decode_per_s" in one and one["decode_per_s"] is None for each in found.values() for one in each
    ):
        raise SystemExit(f"{table}: its rows never all generate together; give more --new-tokens")
    return found


def check_same(table: str, found: Mapping[str, list[Measured]], new_tokens: int) -> None:
    """Every row has its tokens, and sides mostly begin with the same; leaves of the tokens only that share."""
    reference = next(found[piece] for piece in (FP32, OURS, INT4) if piece in found)
    firsts = [[row[0] for row in one["tokens"]] for one in reference]
    for piece, passes in found.items():
        if piece.startswith(MEMORY):
            continue
        pairs = []
        for one, first in zip(passes, firsts, strict=True):
            tokens = one.pop("tokens")
            if any(len(row) != new_tokens for row in tokens):
                raise SystemExit(
                    f"{table}: {piece} gave {sorted({*map(len, tokens)})} tokens, not {new_tokens}"
                )
            pairs += [a[0] == b for a, b in zip(tokens, first, strict=True)]
            one["same_first_token"] = sum(pairs) / len(pairs)
        if "+" not in piece and passes[-1]["same_first_token"] < 0.5:
            share = passes[-1]["same_first_token"]
            raise SystemExit(f"{table}: {piece} computes another model: {share:.0%} of first tokens agree")


def speed(table: str, passes: Sequence[Measured], figure: Figure = "decode") -> list[float]:
    """Tokens a second, of every round."""
    if figure == "first":
        return [TABLES[table].prompt / one["prefill_s"] for one in passes]
    return [one[f"{figure}_per_s"] for one in passes]


def rows_of(setting: Setting, table: str, found: Mapping[str, list[Measured]]) -> dict[str, Row]:
    """What a table says."""
    foreign = {"foreign_cpu": round(disturbed(found), 4)}
    rows = {}
    for name, row in RATIOS.items():
        if row.table == table and name in setting.only and row.peer in found:
            ours, peer = (speed(table, found[side], row.figure) for side in (row.ours, row.peer))
            rows[name] = judged(ratio(ours, peer), goal_of(setting, name, row.goal), **foreign)
    if TABLES[table].new is not None:
        return rows
    speeds = {piece: speed(table, passes) for piece, passes in found.items() if not piece.startswith(MEMORY)}
    for name, (place, count) in ADAPTERS.items():
        if place == table and name in setting.only:
            rows[name] = adapter_row(setting, count, speeds, found[MEMORY]) | foreign
    for name, (piece, goal) in BANDWIDTH.items():
        if table == "b1" and name in setting.only:
            size = setting.weights_bytes(piece)
            reads = [
                max(a["read_gb_per_s"], b["read_gb_per_s"])
                for a, b in zip(found[MEMORY], found[f"{MEMORY} {piece}"], strict=True)
            ]
            used = [size * each / 1e9 for each in speeds[piece]]
            known = {"weights_bytes": size, "read_gb_per_s": statistics.median(reads)}
            rows[name] = judged(ratio(used, reads), goal_of(setting, name, goal), **known, **foreign)
    return rows


def goal_of(setting: Setting, name: str, goal: Goal | None) -> Goal | None:
    """Another one for a larger model."""
    return goal if setting.model == MODEL else GOALS_OF_LARGE.get(name)


def adapter_row(
    setting: Setting, count: int, speeds: Mapping[str, list[float]], memory: Sequence[Measured]
) -> Row:
    """The share of the bound: base speed / (1 + adapter bytes / bandwidth / step time of the base)."""
    size = count * random_adapters.bytes_of(setting.work / "adapters" / random_adapters.names(1)[0])
    bandwidth = statistics.median(one["read_gb_per_s"] for one in memory) * 1e9
    step_s = count / statistics.median(speeds[OURS])
    bound = 1 / (1 + size / bandwidth / step_s)
    base = ratio(speeds[f"{OURS} +{count}"], speeds[OURS])
    of_bound = Ratio(base.median / bound, base.low / bound, base.high / bound, base.pairs)
    known = {"share_of_base": base.median, "bound": bound, "adapter_bytes": size}
    return judged(of_bound, ADAPTER_GOAL, **known)


def quality_rows(setting: Setting) -> dict[str, Row]:
    """KL and top-1 of the 8-bit profile and of int4 against fp32; the peers' beside them, without a goal."""
    ids = conversations(setting.data, setting.bundle, 2, setting.quality_tokens)
    files = setting.gguf_files()
    suffixes = {
        setting.profile: "8bit", Q8: "llamacpp_q8", Q4: "llamacpp_q4", Q4_0: "llamacpp_q4_0",
        Q4_K_M: "llamacpp_q4_k_m", GENAI: "genai_int4",
    }  # fmt: skip
    if "kl_int4" in setting.only:
        suffixes["int4"] = "int4"
    profiles = [profile for profile in suffixes if profile not in {*LLAMA_CPP, GENAI}]
    genai = genai_folder(setting) if setting.has(GENAI) else None
    open_side = functools.partial(
        quality, setting.bundle, profiles, setting.library, files, genai, setting.threads
    )
    with Workers({"quality": open_side}, threads=setting.threads) as workers:
        work = {"ids": ids, "peer_tokens": min(PEER_QUALITY_TOKENS, setting.quality_tokens)}
        found = workers.ask(Piece("quality", work))["compared"]
    rows = {}
    for whose, suffix in suffixes.items():
        for figure, of in (("kl", "kl"), ("top1", "same")) if whose in found else ():
            share = functools.partial(_per_position, of)
            each = found[whose]
            value = Ratio(share(each), *interval(each, share), len(each))
            tokens = sum(one["positions"] for one in each)
            row = judged(value, QUALITY.get(f"{figure}_{suffix}"), tokens=tokens)
            if row["met"] and tokens < LEAST_TOKENS:
                print(
                    f"{figure}_{suffix} is of {tokens} tokens; it counts from {LEAST_TOKENS} on: give more --data"
                )
                row |= {"met": False, "stretch_met": False}
            rows[f"{figure}_{suffix}"] = row
    return rows


def _per_position(of: str, some: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(one[of] for one in some) / sum(one["positions"] for one in some))


def main() -> int:
    """Prints the rows, writes results/decode.json; 1 where a goal is missed."""
    setting, dry_run = options()
    rows: dict[str, Row] = {}

    def note(fresh: dict[str, Row], passes: dict[str, Any]) -> None:
        rows.update(fresh)
        if not dry_run:
            keep(setting.results, document(setting, fresh, passes), PACKAGES)
        for name, row in fresh.items():
            print(
                shown(name, row, "" if name.startswith(("kl_", "top1_")) else beside(setting, rows)),
                flush=True,
            )

    if setting.only & QUALITY.keys():
        note(quality_rows(setting), {})
    if setting.pieces:
        text = list(itertools.chain(*conversations(setting.data, setting.bundle, 2, 40_000)))
        with Workers(sides(setting), threads=setting.threads) as workers:
            for table in setting.pieces:
                found = measure(setting, workers, table, text)
                show(table, found)
                warn_of_others(disturbed(found))
                note(rows_of(setting, table, found), {table: found})
    if left_out := sorted(setting.only - rows.keys()):
        print(f"Not measured, as what they are compared with is not installed: {', '.join(left_out)}")
    return 0 if all(row["met"] is not False for row in rows.values()) else 1


def document(setting: Setting, rows: Mapping[str, Row], passes: Mapping[str, Any]) -> dict[str, Any]:
    """What decode.json holds besides machine and versions."""
    return {
        "command": f"python -m benchmarks.decode{setting.shape and f' --shape {setting.shape}'}", "model": setting.shape or MODEL, "threads": setting.threads,
        "profile": setting.profile, "new_tokens": setting.new_tokens, "host": host(),
        "tables": {name: asdict(table) for name, table in TABLES.items()},
        "llama_cpp": setting.library and {"library": setting.library.name, "built_for": system_info(setting.library)},
        "data": [file.name for file in setting.data], "rows": rows, "passes": passes,
    }  # fmt: skip


def beside(setting: Setting, rows: Mapping[str, Row]) -> str:
    """The price of the speed: KL against fp32, of this call or of an earlier one."""
    path = RESULTS / f"{setting.results}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
    known = {**before, **rows}
    names = (
        ("kl_8bit", "int8"),
        ("kl_int4", "int4"),
        ("kl_llamacpp_q8", "Q8_0"),
        ("kl_llamacpp_q4", "Q4_1"),
    )
    told = ", ".join(f"{whose} {known[name]['median']:.2g}" for name, whose in names if name in known)
    return told and f"KL {told}"


def show(table: str, found: Mapping[str, list[Measured]]) -> None:
    """Medians of a table; CPU seconds of the side itself, of those that wait, and of other programs."""
    print(f"\n{table:<22} {'tokens/s':>9} {'CPU s':>7} {'waiting':>8} {'foreign':>8}")
    for piece, each in found.items():
        keys = ("cpu_s", "waiting_cpu_s", "foreign_cpu_s")
        own, waiting, foreign = (statistics.median(one[key] for one in each) for key in keys)
        if piece.startswith(MEMORY):
            value, unit = statistics.median(one["read_gb_per_s"] for one in each), " GB/s"
        else:
            value, unit = statistics.median(speed(table, each, TABLES[table].figure)), ""
        print(f"{piece:<22} {value:>9.1f} {own:>7.2f} {waiting:>8.2f} {foreign:>8.2f}{unit}")


def options() -> tuple[Setting, bool]:
    """The command line; exports a bundle where none is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ptune-benchmark-decode")
    parser.add_argument(
        "--shape", choices=SHAPES, help="a random Llama of this shape in place of SmolLM2-135M"
    )
    parser.add_argument("--bundle", type=Path, help="of that model; default: one is exported into --work")
    parser.add_argument("--profile", default="int8", help="the bundle's 8-bit profile")
    parser.add_argument("--data", type=Path, nargs="+", default=[DATA], help="held-out chats, JSONL")
    parser.add_argument("--machine", default="", help="a name for this machine, for a file of its own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-library", type=Path, default=wheel_library())
    parser.add_argument(
        "--llama-quantize",
        type=Path,
        default=shutil.which("llama-quantize"),
        help="llama.cpp's program; without it no Q4_0 and no Q4_K_M",
    )
    parser.add_argument("--only", nargs="+", default=list(NAMES), choices=NAMES, metavar="ROW")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--new-tokens", type=int, default=NEW)
    parser.add_argument("--quality-tokens", type=int, default=TOKENS)
    parser.add_argument("--dry-run", action="store_true", help="print, but leave decode.json as it is")
    chosen = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    chosen.work.mkdir(parents=True, exist_ok=True)
    model = MODEL
    if chosen.shape:
        file = chosen.work / f"{chosen.shape}.gguf"
        model = str(write_random(source_file(MODEL), SHAPES[chosen.shape], file))
    profiles = f"fp32,{chosen.profile},int4"
    bundle = chosen.bundle or exported(model, chosen.work / "bundle", profiles, chosen.threads)
    if chosen.shape:
        write_ungated(Bundle.open(bundle), ("int8", "int4"))
    only = frozenset(chosen.only)
    if "int4" not in Bundle.open(bundle).manifest.graphs:
        only = frozenset(name for name in only if "int4" not in name)
        print(f"{bundle} has no profile int4, so its rows are left out: export it with --profiles {profiles}")
    setting = Setting(
        bundle, chosen.profile, chosen.work, chosen.data, chosen.threads, chosen.llama_library, chosen.pairs,
        chosen.new_tokens, chosen.quality_tokens, only, model, chosen.shape or "", chosen.machine, chosen.llama_quantize,
    )  # fmt: skip
    write_gguf_files(setting)
    return setting, chosen.dry_run


def write_gguf_files(setting: Setting) -> None:
    """Writes what llama.cpp reads and is not there yet, all from one file."""
    for piece, file in setting.gguf_files().items():
        if piece == Q8:
            write_q8_0(source_file(setting.model), file)
        elif piece in QUANTIZED and setting.quantizer is not None:
            write_quantized(source_file(setting.model), file, QUANTIZED[piece], setting.quantizer)


def exported(model: str, bundle: Path, profiles: str, threads: int) -> Path:
    """The bundle that is measured, with these profiles, written once."""
    if not (bundle / "manifest.json").is_file():
        command = [sys.executable, "-m", "ptune", "export", model, "--out", str(bundle)]
        subprocess.run([*command, "--profiles", profiles, "--threads", str(threads)], check=False)
    if not (bundle / "manifest.json").is_file():  # without a profile that drifts it is there, and says so
        raise SystemExit(f"{model} was not exported")
    return bundle


def write_ungated(bundle: Bundle, profiles: Sequence[str]) -> None:
    """Writes the profiles that a bundle lacks. Random weights make all tokens about equally likely, so that theirs miss the gate."""
    from ptune.publish.decoder import write_profile

    for profile in profiles:
        if profile not in bundle.manifest.graphs:
            write_profile(bundle, profile)


if __name__ == "__main__":
    sys.exit(main())
