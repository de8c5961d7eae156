"""A run of recommendation on a tiny model, trained once for all tests of a session, and its bundle."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ptune import publish
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.recommendation import Recommendation
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from support import retrieval_runs

NAME = "shop"
"""The adapter of the bundle."""
TITLES = {f"i{number}": f"{word} of the {other}" for number, (word, other) in enumerate(
    (one, other) for one in retrieval_runs.WORDS[:5] for other in retrieval_runs.WORDS[7:11]
)}  # fmt: skip


def interactions(users: int = 30) -> list[dict[str, Any]]:
    """Users who have five of the twenty items, each of them from around one place."""
    rows = []
    for user in range(users):
        rows += [{"user": f"u{user}", "item": f"i{(user * 7 + step * step) % 20}"} for step in range(5)]
    return list({(row["user"], row["item"]): row for row in rows}.values())


@functools.cache
def kit() -> Path:
    """The folder of `retrieval_runs`, and had.jsonl, items.jsonl."""
    folder = retrieval_runs.kit()
    retrieval_runs.write(folder / "had.jsonl", interactions())
    retrieval_runs.write(
        folder / "items.jsonl", [{"item": item, "title": title} for item, title in TITLES.items()]
    )
    return folder


def recipe(had: Path | None = None, method: Any = None, task: Any = None, **train: Any) -> Recipe:
    """Trains in about a second."""
    folder = kit()
    said = {"items": folder / "items.jsonl", "max_length": 32, **(task or {})}
    return Recipe(
        name="tiny",
        task=Recommendation(**said),
        backbone=Backbone(model=str(folder / "bert")),
        method=method or Lora(r=4, alpha=8),
        data=Data(files=(had or folder / "had.jsonl",)),
        train=Train(**{"max_steps": 4, "lr": 1e-2, "batch_size": 16, **train}),
    )


@functools.cache
def run() -> Run:
    return train(recipe(), kit() / "runs" / NAME)


@functools.cache
def bundle() -> Path:
    """Proved but for the server."""
    folder = kit() / "shop-bundle"
    publish.export_run(run(), folder, name=NAME, threads=1)
    return folder
