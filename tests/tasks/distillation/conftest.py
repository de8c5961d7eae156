"""A tiny teacher's bundle, and a recipe of a student with one of its two layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import tiny_bundle, tiny_models
from support.tiny_bundle import TinyBundle

from ptune.config.distillation import Distillation
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.methods.lora import Lora
from ptune.tasks.distillation.labelling import label

Make = Callable[..., Recipe]


@dataclass(frozen=True)
class Kit:
    """model/ is the teacher's base, train.jsonl has 24 conversations, test.jsonl 8 others, labels/ those of the adapter wide."""

    folder: Path
    teacher: TinyBundle


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder = tmp_path_factory.mktemp("distillation")
    tiny_models.build(folder / "model", "llama")
    rows = tiny_models.conversations(32)
    tiny_models.write_jsonl(folder / "train.jsonl", rows[:24])
    tiny_models.write_jsonl(folder / "test.jsonl", rows[24:])
    teacher = tiny_bundle.make(folder / "bundle")
    tiny_bundle.add_codec(folder / "bundle", tiny_models.CHATML)
    golden = folder / "bundle" / "golden" / "golden.json"
    golden.parent.mkdir()
    golden.write_text('{"cases": []}')
    kit = Kit(folder, teacher)
    label(recipe_of(kit), teacher.folder, adapter="wide", top=8)
    return kit


def recipe_of(
    kit: Kit,
    method: Any = None,
    task: dict[str, Any] | None = None,
    backbone: dict[str, Any] | None = None,
    **train: Any,
) -> Recipe:
    """A recipe that trains in a second."""
    plain = {"model": str(kit.folder / "model"), "dtype": "float32", "keep_layers": (1,)}
    return Recipe(
        name="distilled",
        task=Distillation(**{"teacher_labels": kit.folder / "labels", **(task or {})}),
        backbone=Backbone(**{**plain, **(backbone or {})}),
        method=method or Lora(r=4, alpha=8),
        data=Data(files=(kit.folder / "train.jsonl",), test=(kit.folder / "test.jsonl",)),
        train=Train(**{"epochs": 1.0, "lr": 5e-3, "batch_size": 4, "micro_batch_tokens": 128, **train}),
        evaluate=Evaluate(answers=1, answer_tokens=4, in_context=0),
    )


@pytest.fixture
def make(kit: Kit) -> Make:
    """make(method=…, task={…}, backbone={…}, **train) -> Recipe"""
    return lambda *given, **named: recipe_of(kit, *given, **named)
