"""A model in float16, whose loss is scaled: small gradients survive, large ones cost a repetition, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_models

from ptune.config.classification import TextClassification
from ptune.config.recipe import Backbone, Recipe
from ptune.errors import PtuneError, RecipeError
from ptune.fine_tune import train
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.training import preparation
from ptune.training.checkpoint import State
from ptune.training.journal.metrics_log import read
from ptune.training.loss import scale as loss_scale
from ptune.training.loss.scale import LossScale
from ptune.training.preparation import resolved

from .conftest import Make, fingerprint, interrupt

CARD: Any = SimpleNamespace(num_processes=1, device=torch.device("cuda"))
HALF = {"dtype": "float16"}


def series(run: Any, name: str) -> list[float]:
    return [entry[name] for entry in read(run.metrics_path) if name in entry]


@pytest.fixture
def starts_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """starts_at(factor): runs begin with this factor."""

    def set_to(factor: float) -> None:
        monkeypatch.setattr(loss_scale.LossScale.__init__, "__defaults__", (factor, 0))

    return set_to


@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_it_learns_what_float32_learns(
    make: Make, tmp_path: Path, quantize: str, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = [
        train(make(backbone={"dtype": dtype, "quantize": quantize}, max_steps=6), tmp_path / dtype)
        for dtype in ("float32", "float16")
    ]
    assert series(runs[1], "loss") == pytest.approx(series(runs[0], "loss"), rel=0.01)
    assert series(runs[1], "grad_norm") == pytest.approx(series(runs[0], "grad_norm"), rel=0.05)
    assert set(series(runs[1], "loss_scale")) <= {2.0**k for k in range(25)}
    assert not series(runs[0], "loss_scale")
    assert "Linear4bit" not in capfd.readouterr().err  # bitsandbytes warns of a slow type that is not taken
    assert runs[1].record().base.dtype == "float16"
    assert runs[1].record().hops[0].passed


def test_a_step_that_overflows_is_repeated_to_the_same_bytes(
    make: Make, tmp_path: Path, starts_at: Any
) -> None:
    """It ends where a run begins that had the right factor from the start: no step is left out."""
    recipe = make(
        method=Lora(r=4, dropout=0.2), backbone=HALF, max_steps=4, batch_size=6, micro_batch_tokens=64
    )
    starts_at(2.0**40)
    fallen = train(recipe, tmp_path / "fallen")
    found = series(fallen, "loss_scale")
    assert found[0] < 2.0**40
    starts_at(found[0])
    right = train(recipe, tmp_path / "right")
    assert series(right, "loss_scale") == found
    assert fingerprint(fallen.adapter_path) == fingerprint(right.adapter_path)
    assert len(series(fallen, "loss")) == 4


def test_small_gradients_vanish_without_it(make: Make, tmp_path: Path, starts_at: Any) -> None:
    """A long batch divides the loss by many targets. The norm is then that of a float32 run only if the loss is scaled."""
    norms = {}
    for factor in (2.0**-8, 2.0**12):
        starts_at(factor)
        run = train(make(backbone=HALF, max_steps=1, batch_size=24), tmp_path / f"{factor}")
        norms[factor] = series(run, "grad_norm")[0]
    exact = series(train(make(max_steps=1, batch_size=24), tmp_path / "float32"), "grad_norm")[0]
    assert norms[2.0**12] == pytest.approx(exact, rel=0.02)
    assert abs(norms[2.0**-8] / exact - 1) > 10 * abs(norms[2.0**12] / exact - 1)


def test_interrupted_and_resumed_is_uninterrupted(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts_at: Any
) -> None:
    """The factor goes on, too: it has fallen at the first step, and rises each second one."""
    monkeypatch.setattr(loss_scale, "_STEPS", 2)
    starts_at(2.0**40)
    interrupt(monkeypatch, 3)
    recipe = make(method=Lora(r=4, dropout=0.2), backbone={**HALF, "quantize": "nf4"}, max_steps=6)
    broken = train(recipe, tmp_path / "broken")
    assert broken.record().status == "interrupted"
    resumed, whole = train(recipe, tmp_path / "broken", resume=True), train(recipe, tmp_path / "whole")
    assert series(resumed, "loss_scale") == series(whole, "loss_scale")
    assert len(set(series(whole, "loss_scale"))) > 1
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)


def test_it_rises_after_long_quiet_and_falls_at_once() -> None:
    scale = LossScale(1024.0)
    for _ in range(1999):
        scale = scale.after(1024.0)
    assert scale.factor == 1024.0
    assert scale.after(256.0) == LossScale(256.0, 0)
    assert scale.after(1024.0) == LossScale(2048.0, 0)
    highest = LossScale(2.0**24, 5000)
    assert highest.after(2.0**24).factor == 2.0**24


def test_checkpoints_of_an_older_ptune_begin_with_a_new_factor() -> None:
    record = {"step": 3, "best_step": None, "best_loss": None, "worse": 0, "seconds": 1.0}
    assert State.from_record(record) == replace(State(step=3, seconds=1.0), scale=LossScale())


def test_a_loss_beyond_float16_is_explained(make: Make, tmp_path: Path) -> None:
    """Halving the factor does not help there, and another type does."""
    folder = tiny_models.build(tmp_path / "large", "llama")
    weights = load_file(folder / "model.safetensors")
    for name in ("up_proj", "down_proj"):
        weights[f"model.layers.0.mlp.{name}.weight"].mul_(300)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PtuneError, match=r"compute in float32 \(backbone\.dtype\)"):
        train(make(backbone={"model": str(folder), **HALF}, max_steps=2), tmp_path / "run")


def test_on_an_older_card_auto_is_float16_where_it_is_watched(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "training_dtype", lambda *_: torch.float16)
    assert resolved(make(backbone={"dtype": "auto"}), CARD).backbone.dtype == "float16"
    assert resolved(make(backbone={"dtype": "auto"}, method=Full()), CARD).backbone.dtype == "float32"
    texts = Recipe(task=TextClassification(), backbone=Backbone(dtype="auto"))
    assert resolved(texts, CARD).backbone.dtype == "float32"


@pytest.mark.parametrize("recipe", [
    Recipe(task=TextClassification(), backbone=Backbone(dtype="float16")),
    Recipe(method=Full(), backbone=Backbone(dtype="float16")),
])  # fmt: skip
def test_elsewhere_float16_is_refused(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="use float32"):
        resolved(recipe, CARD)
