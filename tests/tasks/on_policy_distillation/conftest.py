"""A tiny student, a larger teacher of the same tokens, and a recipe that trains in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune import publish
from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.methods.lora import Lora

Make = Callable[..., Recipe]


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """student/ and bundle/ of it, teacher/ with three layers, train.jsonl with 24 conversations, test.jsonl with 8 others."""
    folder = tmp_path_factory.mktemp("on_policy")
    tiny_models.build(folder / "student", "llama")
    tiny_models.build(folder / "teacher", "llama", seed=1, num_hidden_layers=3)
    backbone = Backbone(model=str(folder / "student"), dtype="float32")
    publish.export_backbone(backbone, folder / "bundle", threads=1)
    rows = tiny_models.conversations(32)
    tiny_models.write_jsonl(folder / "train.jsonl", rows[:24])
    tiny_models.write_jsonl(folder / "test.jsonl", rows[24:])
    return folder


@pytest.fixture
def make(kit: Path) -> Make:
    """make(method=…, task={…}, backbone={…}, **train) -> Recipe"""

    def recipe(
        method: Any = None,
        task: dict[str, Any] | None = None,
        backbone: dict[str, Any] | None = None,
        **train: Any,
    ) -> Recipe:
        own: dict[str, Any] = {"teacher": str(kit / "teacher"), "answer_tokens": 8, "bundle": kit / "bundle"}
        return Recipe(
            name="judged",
            task=OnPolicyDistillation(**(own | (task or {}))),
            backbone=Backbone(**{"model": str(kit / "student"), "dtype": "float32", **(backbone or {})}),
            method=method or Lora(r=4, alpha=8),
            data=Data(files=(kit / "train.jsonl",), test=(kit / "test.jsonl",)),
            train=Train(
                **{
                    "max_steps": 4,
                    "lr": 1e-2,
                    "batch_size": 4,
                    "micro_batch_tokens": 256,
                    "warmup": 0.0,
                    **train,
                }
            ),
            evaluate=Evaluate(answers=1, answer_tokens=4, in_context=0),
        )

    return recipe
