"""Tiny models and pairs of answers whose better one is told by a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.reward_model import RewardModel
from ptune.methods.lora import Lora

Make = Callable[..., Recipe]
THINGS = ("devil", "love", "war", "virtue", "death", "honour", "envy", "church")


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Pairs whose better answer says love, before or after something else."""
    made = []
    for number in range(start, start + count):
        thing = THINGS[number % 8]
        better, worse = f"love and {thing} {number}", f"war and {thing} {number}"
        if number % 3 == 0:
            worse += " and nothing more of it"
        made.append(
            {
                "prompt": [{"role": "user", "content": f"what is {thing} {number}"}],
                "chosen": [{"role": "assistant", "content": better}],
                "rejected": [{"role": "assistant", "content": worse}],
            }
        )
    return made


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bert/, llama/, train.jsonl with 32 pairs, test.jsonl with 9 others."""
    folder = tmp_path_factory.mktemp("rewards")
    tiny_models.build_encoder(folder / "bert", "bert")
    tiny_models.build(folder / "llama", "llama")
    for name, part in (("train", rows(32)), ("test", rows(9, 100))):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    return folder


@pytest.fixture(scope="session")
def make(kit: Path) -> Make:
    """make(model="bert", method=…, task={…}, **train) -> Recipe"""

    def recipe(
        model: str = "bert", method: Any = None, task: dict[str, Any] | None = None, **train: Any
    ) -> Recipe:
        return Recipe(
            name="rewards",
            task=RewardModel(**{"max_length": 48, **(task or {})}),
            backbone=Backbone(model=str(kit / model)),
            method=method or Lora(r=4, alpha=8),
            data=Data(files=(kit / "train.jsonl",), test=(kit / "test.jsonl",)),
            train=Train(**{"epochs": 6.0, "lr": 1e-2, "batch_size": 8, "micro_batch_tokens": 256, **train}),
        )

    return recipe
