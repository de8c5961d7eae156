"""An on-policy distillation is the same in two processes, and after kills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune import publish
from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.config.recipe import Recipe
from ptune.methods.lora import Lora
from ptune.training.journal.metrics_log import read

from .conftest import Make
from .test_killed import TRAIN, kill_again_and_again

Farm = Callable[..., Any]


@pytest.fixture
def judged(make: Make, tmp_path: Path) -> Recipe:
    """Of its four steps some are on-policy and some are not."""
    recipe = make(method=Lora(r=4), **{**TRAIN, "dropout": None, "max_steps": 4})
    publish.export_backbone(recipe.backbone, tmp_path / "bundle", threads=1)
    teacher = tiny_models.build(tmp_path / "teacher", "llama", seed=1, num_hidden_layers=3)
    task = OnPolicyDistillation(teacher=str(teacher), lmbda=0.6, answer_tokens=6, bundle=tmp_path / "bundle")
    return recipe.model_copy(update={"task": task})


def test_kills_change_no_byte(judged: Recipe, farm: Farm, tmp_path: Path) -> None:
    kill_again_and_again(farm, judged, tmp_path, kills=3)


def test_two_processes_equal_one(judged: Recipe, farm: Farm, tmp_path: Path) -> None:
    journals = []
    for processes in (1, 2):
        out = tmp_path / f"of-{processes}"
        answer = farm(judged, out, processes=processes)
        assert set(answer.codes) == {0}, answer.said
        journals.append(read(out / "metrics.jsonl"))
    one, two = ([entry for entry in journal if "loss" in entry] for journal in journals)
    assert [entry["on_policy"] for entry in one] == [entry["on_policy"] for entry in two]
    assert {entry["on_policy"] for entry in one} == {0, 1}
    for name in ("loss", "grad_norm"):
        assert [entry[name] for entry in one] == pytest.approx([entry[name] for entry in two], rel=1e-3)
    drifts = [entry["drift"] for entry in two if entry["on_policy"]]
    assert max(drifts) < 1e-4
    held = [
        [entry["validation_loss"] for entry in journal if "validation_loss" in entry] for journal in journals
    ]
    assert len(held[0]) == 2
    assert held[0] == pytest.approx(held[1], rel=1e-3)
