"""Adapters and overheads at a size people use: python -m benchmarks.large --work FOLDER     (20 minutes on 2 quiet cores, 14 GB)

A model of Llama 3.2 1B's shape with SmolLM2's vocabulary and random weights. They lie on int8's grid, so that the profile passes
its gate; nothing is said of quality. Rows as `benchmarks.decode` has them, and by its rules, but behind 64 tokens only 32 more:

adapter_share_…       speed with 1, 8 and 32 sequences, each under an adapter of its own (r16 on all linear layers), as a share
                      of what the adapters' bytes allow
bandwidth_share_int8  of memory's bandwidth with one sequence

Writes results/large.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.decode import DATA, PACKAGES, measure, rows_of, show
from benchmarks.decode_quality import conversations
from benchmarks.decode_tables import ADAPTERS, MODEL, PROMPT, Setting, sides
from benchmarks.goals import Row, host, keep, shown, warn_of_others
from benchmarks.workers import Workers, disturbed

ROWS = frozenset({*ADAPTERS, "bandwidth_share_int8"})
NEW, PAIRS = 32, 5
SHAPE = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 49152, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
SPREAD = 0.02  # of the weights


def main() -> int:
    """Prints the rows and writes them; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ptune-benchmark-large")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument(
        "--export-only", action="store_true", help="make the model and its bundle; measure later"
    )
    chosen = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    bundle = exported(chosen.work, chosen.threads)
    if chosen.export_only:
        return 0
    setting = Setting(bundle, "int8", chosen.work, [DATA], chosen.threads, None, chosen.pairs, NEW, 0, ROWS)
    text = list(itertools.chain(*conversations([DATA], bundle, 2, 40_000)))
    rows: dict[str, Row] = {}
    passes: dict[str, Any] = {}
    with Workers(sides(setting), threads=chosen.threads) as workers:
        for table in setting.pieces:
            passes[table] = measure(setting, workers, table, text)
            show(table, passes[table])
            warn_of_others(disturbed(passes[table]))
            rows |= rows_of(setting, table, passes[table])
    for name, row in rows.items():
        print(shown(name, row, ""))
    about = {"threads": chosen.threads, "prompt_tokens": PROMPT, "new_tokens": NEW, "host": host()}
    keep(
        "large",
        {"command": "python -m benchmarks.large", "model": SHAPE, **about, "rows": rows, "passes": passes},
        PACKAGES,
    )
    return 0 if all(row["met"] is not False for row in rows.values()) else 1


def exported(work: Path, threads: int) -> Path:
    """The model's bundle, made once."""
    bundle = work / "bundle"
    if not (bundle / "manifest.json").is_file():
        model = write_model(work / "model")
        command = [sys.executable, "-m", "ptune", "export", str(model), "--out", str(bundle)]
        subprocess.run([*command, "--profiles", "fp32,int8", "--threads", str(threads)], check=True)
    return bundle


def write_model(folder: Path) -> Path:
    """A folder as transformers writes it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ptune.backbone.load import load
    from ptune.backbone.tokenizer import transformers_tokenizer
    from ptune.recipe import Backbone

    if (folder / "config.json").is_file():
        return folder
    codec = load(Backbone(model=MODEL, dtype="float32"), device="cpu").codec
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, dtype="float32"))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                steps = torch.randint(-127, 128, weight.shape, generator=random, dtype=torch.int8)
                steps[:, 0] = 127  # the largest of each row, by which rows are rounded
                weight.copy_(steps).mul_(SPREAD / 73)
    model.save_pretrained(folder)
    transformers_tokenizer(codec).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
