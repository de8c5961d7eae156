"""Tiles of a feed-forward part: what a step holds less, and when the plan proposes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from support import tiny_models

from ptune.backbone.load import load
from ptune.config.recipe import Recipe
from ptune.planning import Ledger, fit, fit_into, predict
from ptune.planning.files import describe
from ptune.planning.prediction import predict_on
from ptune.planning.skeleton import skeleton
from ptune.planning.step import Work, follow
from ptune.training.preparation import applied
from ptune.training.rows.segments import packing

from .conftest import Make
from .test_prediction import real_peak

LENGTHS = [200, 120, 90, 60]
HIDDEN, INNER, LAYERS = 64, 2048, 4


@pytest.fixture
def wide(make: Make, tmp_path: Path) -> Callable[..., Recipe]:
    """wide(family=…, **train): a recipe for a model whose feed-forward parts are 32 times as wide as its states."""

    def recipe(family: str = "llama", **train: object) -> Recipe:
        width = "ffn_dim" if family == "opt" else "intermediate_size"
        folder = tmp_path / family
        if not folder.exists():
            shape = {width: INNER, "num_hidden_layers": LAYERS, "max_position_embeddings": 8192}
            tiny_models.build(folder, family, **shape)
        plain = make(**{"gradient_checkpointing": True, **train})
        spec = plain.backbone.model_copy(update={"model": str(folder)})
        return plain.model_copy(update={"backbone": spec})

    return recipe


@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_followed_step_holds_what_a_real_one_holds(
    wide: Callable[..., Recipe], quantize: str, checkpointing: bool
) -> None:
    recipe = wide(quantize=quantize, gradient_checkpointing=checkpointing, tiled_mlp=64)
    loaded = load(recipe.backbone, device="cpu")
    model = applied(recipe, loaded.model)
    with packing(loaded.model):
        real = real_peak(model, loaded.model, recipe, tuple(LENGTHS))
    followed = follow(
        skeleton(describe(recipe.backbone).config, recipe, torch.float32),
        recipe.train,
        Work(tuple(LENGTHS), 1, ()),
    )
    fake = max(followed.timeline.live()[followed.first :]) - sum(followed.standing.values())
    assert fake == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_tile_is_held_instead_of_a_row(wide: Callable[..., Recipe], checkpointing: bool) -> None:
    lengths, train = [1500, 1000], {"gradient_checkpointing": checkpointing, "batch_size": 2}
    whole, tiled = (
        predict(wide(tiled_mlp=tile, **train), lengths, validation=[10], device="cuda")
        for tile in (None, 250)
    )
    layers = 1 if checkpointing else LAYERS
    of_a_row = 4 * sum(lengths) * INNER  # a float32 value for each inner unit
    assert whole.activations - tiled.activations > 0.8 * 3 * layers * of_a_row
    assert tiled.activations < 0.3 * whole.activations


def test_it_is_proposed_after_checkpointing_and_before_another_base(wide: Callable[..., Recipe]) -> None:
    long, lengths = {"micro_batch_tokens": 6000, "max_length": 6000}, [6000] * 4
    recipe = wide(gradient_checkpointing=False, **long)
    with_tiles = predict(wide(tiled_mlp=1024, **long), lengths, validation=[10], device="cpu").needed_bytes
    found = fit_into(recipe, lengths, int(with_tiles / 0.95) + 2_000_000, validation=[10], device="cpu")
    assert found.fits
    assert found.changes == ("--train.gradient-checkpointing", "--train.tiled-mlp 1024")
    assert Recipe.model_validate(found.recipe.model_dump())


def test_what_is_not_needed_is_left_out(make: Make, tmp_path: Path) -> None:
    """Rows of a tile or less gain nothing by tiles, though they stand before quantisation."""
    shape = {"hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 2}
    tiny_models.FAMILIES["llama"](**shape).save_pretrained(tmp_path)  # its config is enough

    def large(quantize: Literal["none", "nf4"], **train: int) -> Recipe:
        plain = make(quantize=quantize, gradient_checkpointing=True, max_length=500, **train)
        spec = plain.backbone.model_copy(update={"model": str(tmp_path)})
        return plain.model_copy(update={"backbone": spec})

    lengths = [500] * 4
    least = predict(large("nf4", micro_batch_tokens=500), lengths, device="cuda").needed_bytes
    found = fit_into(large("none"), lengths, int(least / 0.95) + 100_000_000, device="cuda")
    assert found.fits
    assert "--backbone.quantize nf4" in found.changes
    assert not any("tiled" in change or "offloading" in change for change in found.changes)


@pytest.mark.parametrize(("family", "tried"), [("llama", {None, 1024}), ("opt", {None})])
def test_it_is_not_tried_where_it_would_be_refused(
    wide: Callable[..., Recipe], family: str, tried: set[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def noted(model: Any, recipe: Recipe, *others: Any) -> Ledger:
        seen.add(recipe.train.tiled_mlp)
        return predict_on(model, recipe, *others)

    monkeypatch.setattr(fit, "predict_on", noted)
    recipe = wide(family, quantize="nf4", max_length=128, micro_batch_tokens=128)
    assert not fit_into(recipe, [128] * 2, 10**6).fits
    assert seen == tried
