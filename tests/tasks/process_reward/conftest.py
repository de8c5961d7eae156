"""Tiny models, and answers of which a step is wrong where its last word says so."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora

Make = Callable[..., Recipe]
WORDS = ("love", "virtue", "church", "honour")


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Answers of two to four steps. A step that ends in war is wrong, and all others are right."""
    chance, made = random.Random(seed), []
    for number in range(count):
        steps = [f"{chance.choice(WORDS)} and {chance.choice(WORDS)}" for _ in range(chance.randint(2, 4))]
        if chance.random() < 0.6:
            steps[chance.randrange(len(steps))] = f"{chance.choice(WORDS)} and war"
        verdicts = [not step.endswith("war") for step in steps]
        made.append({"prompt": f"what is {number} of {seed}", "completions": steps, "labels": verdicts})
    return made


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bert/, llama/, train.jsonl with 160 rows, test.jsonl with 24 others."""
    folder = tmp_path_factory.mktemp("steps")
    tiny_models.build_encoder(folder / "bert", "bert")
    tiny_models.build(folder / "llama", "llama")
    write(folder / "train.jsonl", rows(160, 1))
    write(folder / "test.jsonl", rows(24, 2))
    return folder


@pytest.fixture(scope="session")
def make(kit: Path) -> Make:
    """make(model="bert", method=…, task={…}, **train) -> Recipe"""

    def recipe(
        model: str = "bert", method: Any = None, task: dict[str, Any] | None = None, **train: Any
    ) -> Recipe:
        return Recipe(
            name="steps",
            task=ProcessReward(**{"max_length": 128, **(task or {})}),
            backbone=Backbone(model=str(kit / model)),
            method=method or Lora(r=4, alpha=8),
            data=Data(files=(kit / "train.jsonl",), test=(kit / "test.jsonl",)),
            train=Train(**{"epochs": 5.0, "lr": 1e-2, "batch_size": 8, "micro_batch_tokens": 512, **train}),
        )

    return recipe
