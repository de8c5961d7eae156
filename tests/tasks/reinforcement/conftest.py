"""A tiny model, prompts, and a reward that it can learn to earn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune import publish
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.config.reinforcement import Reinforcement
from ptune.methods.lora import Lora

Make = Callable[..., Recipe]

REWARDS = '''
"""Functions in TRL's form."""

def early(prompts, completions, **columns):
    """The share of letters before n in the alphabet."""
    return [sum(letter < "n" for letter in text) / max(1, len(text)) for text in texts(completions)]

def same(prompts, completions, **columns):
    return [0.5] * len(completions)

def texts(completions):
    return [one if isinstance(one, str) else one[0]["content"] for one in completions]
'''


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/ (llama), bundle/ of it, prompts in train.jsonl and test.jsonl, rewards.py."""
    folder = tmp_path_factory.mktemp("reinforcement")
    tiny_models.build(folder / "model", "llama")
    backbone = Backbone(model=str(folder / "model"), dtype="float32")
    publish.export_backbone(backbone, folder / "bundle", threads=1)
    asked = [
        {"messages": messages[:-1], "number": number}
        for number, messages in enumerate(tiny_models.conversations(24))
    ]
    for name, part in (("train", asked[:16]), ("test", asked[16:])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    (folder / "rewards.py").write_text(REWARDS)
    return folder


@pytest.fixture
def make(kit: Path) -> Make:
    """make(reward="early", method=…, task={…}, **train) -> Recipe"""

    def recipe(
        reward: str = "early", method: Any = None, task: dict[str, Any] | None = None, **train: Any
    ) -> Recipe:
        own: dict[str, Any] = {
            "rewards": (f"{kit / 'rewards.py'}:{reward}",),
            "answer_tokens": 8,
            "group_size": 4,
            "bundle": kit / "bundle",
        }
        return Recipe(
            name="rewarded",
            task=Reinforcement(**(own | (task or {}))),
            backbone=Backbone(model=str(kit / "model"), dtype="float32"),
            method=method or Lora(r=4, alpha=8),
            data=Data(files=(kit / "train.jsonl",), test=(kit / "test.jsonl",)),
            train=Train(
                **{
                    "max_steps": 3,
                    "lr": 3e-2,
                    "batch_size": 4,
                    "micro_batch_tokens": 256,
                    "warmup": 0.0,
                    **train,
                }
            ),
            evaluate=Evaluate(answers=2),
        )

    return recipe
