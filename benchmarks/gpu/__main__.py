"""What a GPU does with ptune: python -m benchmarks.gpu [--out FOLDER] [--only PART…]      -> OUT/gpu.json

For a rented card: about ten minutes in all, one part after another, each a process of its own with a limit of at most 150 s. What
is found is in OUT/gpu.json after each part, so that whatever ends the call loses one part at most; OUT/PART.log has all that a
part printed. Needs 8 GB of disk and a card of 24 GB; of a larger one it uses 24.

exact      a small model: the same bytes in two runs and after a pause; saved and read back; which attention kernel ran
layer      one layer of 8B: nf4 and int8 bytes and dequantised weights against the CPU's, products against float64
model      writes an 8B-shaped Llama whose nf4 weights repeat one random layer, in bitsandbytes' own format (6 GB)
train-*    8B QLoRA rank 16: memory allocated and reserved, main memory, tokens a second of the last steps, beside `ptune plan`
profile    one step of four such layers: kernels by their share of the time, and how often the card was waited for
operators  ptune's graphs on onnxruntime's CUDA provider: which nodes it ran. Needs onnxruntime-gpu

--tiny does the same with small models, on the CPU where there is no GPU: it tries whether everything works. What it says of
memory means nothing there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.goals import host
from benchmarks.sides import described

PARTS = {  # name -> module, its arguments, seconds it may take
    "exact": ("exact", (), 90),
    "layer": ("layer", (), 60),
    "model": ("model", (), 120),
    "train-1x2048": ("training", (1, 2048, True), 120),
    "train-4x2048": ("training", (4, 2048, True), 150),
    "train-1x2048-plain": ("training", (1, 2048, False), 120),
    "train-1x8192": ("training", (1, 8192, True), 150),
    "profile": ("profile", (), 90),
    "operators": ("operators", (), 120),
}  # fmt: skip
PACKAGES = ("ptune", "torch", "transformers", "peft", "bitsandbytes")
SAID = 2000  # characters of a failed part's output


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="results and logs")
    parser.add_argument("--work", type=Path, help="models and runs; default: OUT/work")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.work or options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    if options.one is not None:
        module, arguments, _ = PARTS[options.one]
        found = import_module(f"benchmarks.gpu.{module}").run(work, *arguments, tiny=options.tiny)
        (options.out / f"{options.one}.json").write_text(json.dumps(found), encoding="utf-8")
        return 0
    parts: dict[str, Any] = {}
    for name in options.only:
        parts[name] = in_a_process(name, options.out, work, options.tiny)
        print(f"{name}: {json.dumps(parts[name])}", flush=True)
        document = {"command": "python -m benchmarks.gpu", "tiny": options.tiny, "parts": parts, **host()}
        text = json.dumps(described(document, PACKAGES), indent=1)
        (options.out / "gpu.json").write_text(text + "\n", encoding="utf-8")
    return int(any("failed" in part for part in parts.values()))


def in_a_process(name: str, out: Path, work: Path, tiny: bool) -> dict[str, Any]:
    """What a part found, or how it failed; its output is in OUT/NAME.log."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--one", name, "--out", str(out), "--work", str(work)]
    log, limit_s, began_s = out / f"{name}.log", PARTS[name][2], time.monotonic()
    with log.open("w", encoding="utf-8") as said:
        try:
            done = subprocess.run(
                [*command, *(["--tiny"] if tiny else [])],
                stdout=said, stderr=subprocess.STDOUT, timeout=None if tiny else limit_s,
                env=os.environ | {"PTUNE_CACHE": str(work / "cache")},
            )  # fmt: skip
            failed = f"exit code {done.returncode}" if done.returncode else None
        except subprocess.TimeoutExpired:
            failed = f"not done after {limit_s} s"
    if failed is not None:
        return {"failed": failed, "said": log.read_text(encoding="utf-8")[-SAID:]}
    found: dict[str, Any] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    return {**found, "seconds": round(time.monotonic() - began_s, 1)}


if __name__ == "__main__":
    raise SystemExit(main())
