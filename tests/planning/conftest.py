"""A tiny model on disk, and recipes that train it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Plan, Recipe, Train
from ptune.methods.lora import Lora

Make = Callable[..., Recipe]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support import tiny_models

    return tiny_models.build(
        tmp_path_factory.mktemp("planned") / "llama",
        "llama",
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=1,
        max_position_embeddings=4096,
    )


@pytest.fixture
def make(folder: Path) -> Make:
    """make(rank=…, quantize=…, max_length=…, method=…, **train) -> Recipe"""

    def recipe(
        rank: int = 4,
        quantize: Literal["none", "int8", "nf4"] = "none",
        max_length: int = 2048,
        method: Any = None,
        plan: Plan = Plan(),
        **train: Any,
    ) -> Recipe:
        return Recipe(
            name="tiny",
            task=Chat(max_length=max_length),
            backbone=Backbone(model=str(folder), quantize=quantize, dtype="float32"),
            method=method or Lora(r=rank),
            train=Train(**{"batch_size": 4, "micro_batch_tokens": 8192, **train}),
            plan=plan,
        )

    return recipe
