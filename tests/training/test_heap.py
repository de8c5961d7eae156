"""Free pages go back to the system where memory is what counts: with gradient checkpointing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_models import build

from ptune.backbone.load import load
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.planning.skeleton import skeleton
from ptune.planning.step import Work, follow
from ptune.planning.storage import GIVEN_BACK
from ptune.training.memory import heap
from ptune.training.preparation import applied
from ptune.training.rows.segments import segments


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_layer_hands_back_as_the_plan_says(
    checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build(tmp_path / "model", "llama")
    recipe = Recipe(
        backbone=Backbone(model=str(base), dtype="float32"),
        train=Train(gradient_checkpointing=checkpointing),
    )
    backbone = load(recipe.backbone, device="cpu").model
    model = applied(recipe, backbone).train()
    followed = follow(skeleton(backbone.config, recipe, torch.float32), recipe.train, Work((8,), 1, ()))
    handed: list[int] = []
    monkeypatch.setattr(heap, "give_back", lambda: handed.append(1))
    with segments([8]):
        model(torch.arange(8)[None], use_cache=False).logits.sum().backward()
    layers = backbone.config.num_hidden_layers
    assert len(handed) == (2 * layers if checkpointing else 0)  # forward, and computed again
    assert followed.timeline.events.count(GIVEN_BACK) == len(handed)


def test_handing_back_is_harmless_anywhere() -> None:
    heap.give_back()
