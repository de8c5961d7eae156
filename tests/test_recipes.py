"""Every recipe that ships trains for a few steps, on a tiny model, and says what it does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_bundle
from support.tiny_images import build as build_image_model
from support.tiny_models import CHATML, build

from ptune.config.classification import ImageClassification
from ptune.config.distillation import Distillation
from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Recipe
from ptune.config.retrieval import Embedding
from ptune.config.shipped import shipped
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.tasks.distillation.labelling import label

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_image_model(tmp_path_factory.mktemp("model"), "resnet")


def distilled(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with labels of a tiny teacher, for a student with one of the two layers of the tiny model."""
    teacher = tiny_bundle.make(folder / "bundle").folder
    tiny_bundle.add_codec(teacher, CHATML)
    (teacher / "golden").mkdir()
    (teacher / "golden" / "golden.json").write_text('{"cases": []}')
    task = recipe.task.model_copy(update={"teacher_labels": folder / "labels"})
    recipe = recipe.model_copy(
        update={"task": task, "backbone": recipe.backbone.model_copy(update={"keep_layers": (1,)})}
    )
    label(recipe, teacher, top=4)
    return recipe


@pytest.mark.parametrize("name", shipped())
def test_a_few_steps_of_every_recipe(name: str, model: Path, image_model: Path, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    of_images = isinstance(recipe.task, ImageClassification)
    # The tiny tokenizer makes more tokens; the tiny image model sees tiny images.
    easier: dict[str, Any] = {"size": 32} if of_images else {"on_overlong": "truncate"}
    if isinstance(recipe.task, Embedding):
        easier["dimensions"] = (8,)  # of its narrow vectors
    recipe = recipe.model_copy(
        update={
            "task": recipe.task.model_copy(update=easier),
            "backbone": recipe.backbone.model_copy(
                update={"model": str(image_model if of_images else model)}
            ),
            "data": recipe.data.model_copy(update={"limit": 16}),
            "train": recipe.train.model_copy(update={"max_steps": 2}),
            "method": recipe.method.model_copy(
                update={"layers": 1} if hasattr(recipe.method, "layers") else {}
            ),
        }
    )
    if isinstance(recipe.task, Distillation):
        recipe = distilled(recipe, tmp_path)
    record = train(recipe, tmp_path / "run").record()
    assert (record.status, record.steps) == ("finished", 2)
    assert record.hops[0].max_abs_logprob == 0
    assert Run(tmp_path / "run").has_adapter == (type(recipe.method).__name__ == "Lora")


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_says_what_it_does(name: str) -> None:
    spec = importlib.util.find_spec(f"ptune_recipes.{name}")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    for word in ("data ", "hardware ", "command ", f"ptune train {name}"):
        assert word in source


def test_accelerate_launch_trains_and_resumes(model: Path, tmp_path: Path) -> None:
    """The recipe's own file under `accelerate launch`, then once more with --resume."""
    options = ["--backbone.model", str(model), "--task.on-overlong", "truncate", "--data.limit", "16"]
    recipe = [
        str(ROOT / "recipes/chat_lora.py"),
        *options,
        "--out",
        str(tmp_path / "run"),
        "--train.max-steps",
        "2",
    ]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", *recipe]
    done = subprocess.run(
        launch, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"COLUMNS": "160"}
    )
    assert done.returncode == 0, done.stderr
    assert "next: ptune evaluate run" in done.stdout
    again = subprocess.run([*launch, "--resume"], capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "nothing to resume" in again.stderr
    wrong = subprocess.run([sys.executable, *recipe], capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
