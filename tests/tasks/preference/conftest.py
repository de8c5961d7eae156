"""A tiny model and pairs of answers that it can learn to tell apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.config.preference import Preference
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.methods.lora import Lora

Make = Callable[..., Recipe]


def rows(count: int) -> list[dict[str, Any]]:
    """Pairs whose better answer is loud."""
    asked = tiny_models.conversations(count)
    return [
        {
            "prompt": messages[:-1],
            "chosen": [{"role": "assistant", "content": f"{messages[-1]['content'].upper()}!"}],
            "rejected": [{"role": "assistant", "content": messages[-1]["content"]}],
        }
        for messages in asked
    ]


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/ (llama), train.jsonl with 24 pairs, test.jsonl with 8 others."""
    folder = tmp_path_factory.mktemp("pairs")
    tiny_models.build(folder / "model", "llama")
    made = rows(32)
    for name, part in (("train", made[:24]), ("test", made[24:])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    return folder


@pytest.fixture
def make(kit: Path) -> Make:
    """make(loss="dpo", method=…, backbone={…}, task={…}, **train) -> Recipe"""

    def recipe(
        loss: Any = "dpo",
        method: Any = None,
        backbone: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
        **train: Any,
    ) -> Recipe:
        return Recipe(
            name="pairs",
            task=Preference(loss=loss, **(task or {})),
            backbone=Backbone(**{"model": str(kit / "model"), "dtype": "float32", **(backbone or {})}),
            method=method or Lora(r=4, alpha=8),
            data=Data(files=(kit / "train.jsonl",), test=(kit / "test.jsonl",)),
            train=Train(**{"epochs": 2.0, "lr": 1e-2, "batch_size": 4, "micro_batch_tokens": 256, **train}),
            evaluate=Evaluate(answers=1, answer_tokens=4, in_context=0),
        )

    return recipe
