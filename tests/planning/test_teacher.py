"""A plan counts the teacher that an on-policy distillation holds beside its student."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import tiny_models

from ptune.cli import main
from ptune.config.chat import Chat
from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.config.recipe import Backbone, Recipe
from ptune.errors import BackboneError
from ptune.planning.prediction import predict


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    tiny_models.build(folder / "student", "llama")
    tiny_models.build(folder / "teacher", "llama", num_hidden_layers=6, hidden_size=128)
    return folder


def recipe_of(models: Path, teacher: str | None = None) -> Recipe:
    backbone = Backbone(model=str(models / "student"), dtype="float32")
    task = OnPolicyDistillation(teacher=teacher or str(models / "teacher"))
    return Recipe(task=task, backbone=backbone)


def test_its_weights_are_there_all_the_time(models: Path) -> None:
    recipe = recipe_of(models)
    alone = predict(recipe.model_copy(update={"task": Chat()}), [64] * 4, device="cpu")
    both = predict(recipe, [64] * 4, device="cpu")
    weights = sum(one.nbytes for one in load_file(models / "teacher" / "model.safetensors").values())
    assert alone.teacher == 0
    assert weights <= both.teacher < 4 * weights
    assert both.step_bytes - alone.step_bytes == both.teacher
    for name in ("loading", "saving", "evaluation"):
        assert getattr(both, name) >= getattr(alone, name) + weights


def test_a_plan_shows_it(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe_of(models).save(tmp_path / "recipe.yaml")
    assert main(["plan", str(tmp_path / "recipe.yaml")]) == 0
    assert "teacher" in capsys.readouterr().out


def test_a_teacher_that_is_not_there_is_said(models: Path) -> None:
    with pytest.raises(BackboneError, match="nobody/nothing"):
        predict(recipe_of(models, teacher="nobody/nothing"), [64], device="cpu")
