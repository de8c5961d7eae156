"""Tiny encoders, a handful of labelled rows, and recipes that train in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

Make = Callable[..., Recipe]
GOOD = ("delight", "virtue", "love", "honour")
BAD = ("envy", "devil", "war", "death")


def texts(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows whose label can be told by one word."""
    rows = []
    for number in range(start, start + count):
        label, words = ("good", GOOD) if number % 2 else ("bad", BAD)
        said = f"{f'{words[number // 2 % 4]} ' * (3 + number % 5)}{number}"
        rows.append({"text": said, "label": label, "set": number % 3})
    return rows


def sentences(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows in which devils are tagged."""
    rows = []
    for number in range(start, start + count):
        words = ["The", "great", "devil", "of", str(number), *["and", "more"] * (number % 4)]
        tags = ["O", "B-X", "I-X"] + ["O"] * (len(words) - 3)
        rows.append({"tokens": words, "tags": tags})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bert/, distilbert/, roberta/, llama/; texts.jsonl and words.jsonl with 32 rows, *.test.jsonl with 8 others."""
    from support import tiny_models

    folder = tmp_path_factory.mktemp("kit")
    for name in tiny_models.ENCODERS:
        tiny_models.build_encoder(folder / name, name)
    tiny_models.build_encoder(folder / "poolerless", "bert", pooler=False)
    tiny_models.build(folder / "llama", "llama")
    for name, rows in (("texts", texts), ("words", sentences)):
        write(folder / f"{name}.jsonl", rows(32))
        write(folder / f"{name}.test.jsonl", rows(8, 100))
    return folder


@pytest.fixture
def make(kit: Path) -> Make:
    """make("texts" or "words", model="bert", method=…, task={…}, **train) -> Recipe"""

    def recipe(
        name: str = "texts", model: str = "bert", method: Any = None, task: Any = None, **train: Any
    ) -> Recipe:
        kind = TextClassification if name == "texts" else TokenClassification
        return Recipe(
            name="tiny",
            task=kind(**(task or {})),
            backbone=Backbone(model=str(kit / model)),
            method=method or Lora(r=4, alpha=8),
            data=Data(files=(kit / f"{name}.jsonl",), test=(kit / f"{name}.test.jsonl",)),
            train=Train(**{"epochs": 1.0, "lr": 1e-2, "batch_size": 8, "micro_batch_tokens": 128, **train}),
        )

    return recipe
