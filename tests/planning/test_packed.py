"""A plan knows what a ready-made checkpoint takes that stays as it is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import packed_checkpoints as made

from ptune.backbone.load import load
from ptune.cli import main
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.planning.files import describe
from ptune.planning.prediction import predict
from ptune.planning.skeleton import skeleton
from ptune.planning.step import Work, follow
from ptune.training.preparation import applied, as_its_base_is_stored
from ptune.training.rows.segments import packing

from .test_prediction import LENGTHS, real_peak

MXFP4 = "mxfp4"
NAMES = ["gptq", "awq", "fp8", "compressed int4", "compressed int8 with zeros", MXFP4]


def stored_in(folder: Path, name: str) -> Path:
    return made.gpt_oss(folder) if name == MXFP4 else made.build(folder, made.FORMATS[name])[0]


def recipe_for(folder: Path) -> Recipe:
    recipe = Recipe(
        backbone=Backbone(model=str(folder), dtype="float32"),
        train=Train(batch_size=4, micro_batch_tokens=8192),
    )
    return as_its_base_is_stored(recipe)


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_counted_as_they_are_stored(tmp_path: Path, name: str) -> None:
    recipe = recipe_for(stored_in(tmp_path / "model", name))
    model = load(recipe.backbone, device="cpu").model
    ledger = predict(recipe, LENGTHS, device="cpu")
    stored = sum(one.nbytes for one in [*model.parameters(), *model.buffers()])
    # A config does not say in which type the scales are: they are taken for 16 bits.
    assert ledger.weights + ledger.quantisation_state == pytest.approx(stored, rel=0.001)


@pytest.mark.parametrize("name", NAMES)
def test_a_followed_step_holds_what_a_real_one_holds(tmp_path: Path, name: str) -> None:
    """One layer's values at a time, among all else."""
    recipe = recipe_for(stored_in(tmp_path / "model", name))
    loaded = load(recipe.backbone, device="cpu")
    model = applied(recipe, loaded.model)
    with packing(loaded.model) as packed:
        assert packed
        real = real_peak(model, loaded.model, recipe, tuple(LENGTHS))
    fake_model = skeleton(describe(recipe.backbone).config, recipe, torch.float32)
    followed = follow(fake_model, recipe.train, Work(tuple(LENGTHS), 1, ()))
    fake = max(followed.timeline.live()[followed.first :]) - sum(followed.standing.values())
    assert fake == pytest.approx(real, rel=0.01)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    asked = ["plan", "chat_lora", "--backbone.model", str(folder)]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quantize"] == "gptq"
    assert main(asked) == 0
    assert "layers as they are stored, in gptq, plain weights in float32" in " ".join(
        capsys.readouterr().out.split()
    )


def test_where_the_files_are_elsewhere_all_layers_count_as_packed(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["awq"])
    recipe = recipe_for(folder)
    here = predict(recipe, LENGTHS, device="cpu").weights
    (folder / "model.safetensors").unlink()
    assert predict(recipe, LENGTHS, device="cpu").weights == here
