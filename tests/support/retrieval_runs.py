"""Runs of retrieval on a tiny model, trained once for all tests of a session, and the bundle of both."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ptune import publish
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.retrieval import Embedding, Reranking
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from support import tiny_models

WORDS = (
    "devil",
    "love",
    "war",
    "virtue",
    "death",
    "honour",
    "envy",
    "delight",
    "church",
    "money",
    "king",
    "dog",
)
EMBEDS, RANKS = "finder", "judge"
"""The adapters of the bundle."""


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows in which two words belong together."""
    rows = []
    for number in range(start, start + count):
        one, other = WORDS[number % 12], WORDS[(number // 12 + number) % 12]
        rows.append(
            {
                "anchor": f"what is the {one} of {other} {number}",
                "positive": f"{one} and {one} with {other} {number}",
                "negative": f"{WORDS[(number + 5) % 12]} without anything {number}",
            }
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@functools.cache
def kit() -> Path:
    """bert/, roberta/, llama/; pairs.jsonl with 32 rows, pairs.test.jsonl with 8 others."""
    folder = Path(tempfile.mkdtemp(prefix="ptune-retrieval-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("bert", "roberta"):
        tiny_models.build_encoder(folder / name, name)
    tiny_models.build(folder / "llama", "llama")
    write(folder / "pairs.jsonl", pairs(32))
    write(folder / "pairs.test.jsonl", pairs(8, 100))
    return folder


def recipe(
    task: Embedding | Reranking | None = None, model: str = "bert", method: Any = None, **train: Any
) -> Recipe:
    """Trains in about a second."""
    return Recipe(
        name="tiny",
        task=task or Embedding(max_length=32, dimensions=(16, 8)),
        backbone=Backbone(model=str(kit() / model)),
        method=method or Lora(r=4, alpha=8),
        data=Data(files=(kit() / "pairs.jsonl",), test=(kit() / "pairs.test.jsonl",)),
        train=Train(**{"epochs": 2.0, "lr": 1e-2, "batch_size": 8, "micro_batch_tokens": 256, **train}),
    )


@functools.cache
def embedding_run() -> Run:
    return train(recipe(epochs=4.0), kit() / "runs" / EMBEDS)


@functools.cache
def reranking_run() -> Run:
    return train(recipe(Reranking(max_length=48)), kit() / "runs" / RANKS)


@functools.cache
def bundle() -> Path:
    """Both adapters on one body, proved but for the server."""
    folder = kit() / "bundle"
    publish.export_run(embedding_run(), folder, name=EMBEDS, threads=1, anyway=True)
    publish.add(folder, reranking_run().adapter_path, RANKS, threads=1)
    return folder
