"""One finished run on a tiny model, to be looked at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.formats.run import Run
from ptune.methods.lora import Lora


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from support import tiny_models

    from ptune.fine_tune import train

    folder = tmp_path_factory.mktemp("evaluated")
    rows = tiny_models.conversations(40)
    recipe = Recipe(
        name="tiny <run>",
        backbone=Backbone(model=str(tiny_models.build(folder / "model", "llama")), dtype="float32"),
        method=Lora(r=8, alpha=32),
        data=Data(
            files=(tiny_models.write_jsonl(folder / "train.jsonl", rows[:32]),),
            test=(tiny_models.write_jsonl(folder / "test.jsonl", rows[32:]),),
        ),
        train=Train(epochs=6, lr=2e-2, batch_size=8, micro_batch_tokens=256),
        evaluate=Evaluate(answers=3, answer_tokens=6, in_context=2),
    )
    return train(recipe, folder / "run")


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the run, to be changed at will."""
    return Run(shutil.copytree(trained.folder, tmp_path / "run"))
