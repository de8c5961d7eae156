"""A tiny model and judged answers that it can learn to tell apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.methods.lora import Lora

Make = Callable[..., Recipe]


def rows(count: int) -> list[dict[str, Any]]:
    """Answers of which every second one is loud, and desirable."""
    return [
        {
            "prompt": messages[:-1],
            "completion": [
                {
                    "role": "assistant",
                    "content": (
                        f"{messages[-1]['content'].upper()}!" if number % 2 else messages[-1]["content"]
                    ),
                }
            ],
            "label": bool(number % 2),
        }
        for number, messages in enumerate(tiny_models.conversations(count))
    ]


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/ (llama), train.jsonl with 48 answers, test.jsonl with 12 others."""
    folder = tmp_path_factory.mktemp("judged")
    tiny_models.build(folder / "model", "llama")
    made = rows(60)
    for name, part in (("train", made[:48]), ("test", made[48:])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    return folder


@pytest.fixture
def make(kit: Path) -> Make:
    """make(loss="kto", method=…, task={…}, **train) -> Recipe"""

    def recipe(
        loss: Any = "kto", method: Any = None, task: dict[str, Any] | None = None, **train: Any
    ) -> Recipe:
        return Recipe(
            name="judged",
            task=UnpairedPreference(loss=loss, **(task or {})),
            backbone=Backbone(model=str(kit / "model"), dtype="float32"),
            method=method or Lora(r=4, alpha=8),
            data=Data(files=(kit / "train.jsonl",), test=(kit / "test.jsonl",)),
            train=Train(**{"epochs": 3.0, "lr": 1e-2, "batch_size": 8, "micro_batch_tokens": 256, **train}),
            evaluate=Evaluate(answers=1, answer_tokens=4, in_context=0),
        )

    return recipe
