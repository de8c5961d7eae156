"""A tiny model, rows in memory, and the recipe of a training of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

import ptune


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("api") / "model", "llama")


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    return [{"messages": messages} for messages in tiny_models.conversations(24)]


@pytest.fixture
def recipe(model_path: Path) -> ptune.Recipe:
    return ptune.Recipe(
        name="tiny",
        backbone=ptune.Backbone(model=str(model_path), dtype="float32"),
        method=ptune.Lora(r=4, alpha=8),
        train=ptune.Train(max_steps=6, lr=5e-3, batch_size=4, micro_batch_tokens=128, validate_every=2),
    )
