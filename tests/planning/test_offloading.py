"""Inputs of layers in main memory: what a card holds less, and main memory more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import tiny_models

from ptune.backbone.load import load
from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.planning import fit_into, planned, predict, preflight
from ptune.planning.commands import needs
from ptune.planning.files import describe
from ptune.planning.skeleton import skeleton
from ptune.planning.step import Work, follow
from ptune.training.memory import offloading
from ptune.training.preparation import applied
from ptune.training.rows.segments import packing

from .conftest import Make
from .test_prediction import real_peak

LENGTHS = [200, 120, 90, 60]
LAYERS, HIDDEN = 8, 256


@pytest.fixture
def deep(make: Make, tmp_path: Path) -> Callable[..., Recipe]:
    """deep(**train): a recipe for a model of eight layers, with checkpointing."""
    shape = {"hidden_size": HIDDEN, "intermediate_size": 512, "num_hidden_layers": LAYERS}
    folder = tiny_models.build(tmp_path / "deep", "llama", max_position_embeddings=4096, **shape)

    def recipe(**train: object) -> Recipe:
        plain = make(**{"gradient_checkpointing": True, **train})
        spec = plain.backbone.model_copy(update={"model": str(folder)})
        return plain.model_copy(update={"backbone": spec})

    return recipe


def test_a_card_holds_two_inputs_instead_of_all(deep: Callable[..., Recipe]) -> None:
    """That of the layer whose gradient is computed, and that of the first, which is where gradients end."""
    lengths = [1500, 1000]
    kept, sent = (predict(deep(activation_offloading=on), lengths, device="cuda") for on in (False, True))
    one = sum(lengths) * HIDDEN * 4
    assert (kept.offloaded, sent.offloaded) == (0, LAYERS * 2**22)  # 2.56 MB in a block of 4 MiB
    assert kept.activations - sent.activations == pytest.approx((LAYERS - 2) * one, rel=0.001)
    for name in ("weights", "adapter", "optimiser", "main_memory"):
        assert getattr(kept, name) == getattr(sent, name)


def test_main_memory_of_the_training_counts_them(deep: Callable[..., Recipe]) -> None:
    recipe = deep(activation_offloading=True, batch_size=64, micro_batch_tokens=64 * 4000)
    ledger = predict(recipe, [4000] * 64, device="cuda")
    assert ledger.offloaded > ledger.main_memory
    train, evaluate, *_ = needs(recipe, ledger, describe(recipe.backbone).config)
    assert train.main_memory - evaluate.main_memory == ledger.offloaded - ledger.main_memory


def test_a_followed_step_holds_what_a_real_one_holds(
    deep: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of real tensors, too, the inputs are gone. numpy's memory stands for the main memory of a card."""
    recipe = deep(activation_offloading=True)
    model = skeleton(describe(recipe.backbone).config, recipe, torch.float32)
    followed = follow(model, recipe.train, Work(tuple(LENGTHS), 1, ()), "cuda")
    fake = max(followed.timeline.live()[followed.first :]) - sum(followed.standing.values())
    there: dict[int, object] = {}

    def send(_blocks: object, tensor: torch.Tensor) -> offloading.Away:
        away = offloading.Away(torch.empty(0), tensor.device)
        there[id(away)] = (away, tensor.numpy().copy())
        return away

    def bring(away: offloading.Away) -> torch.Tensor:
        return torch.from_numpy(there[id(away)][1]).clone()  # type: ignore[index]

    monkeypatch.setattr(offloading, "send", send)
    monkeypatch.setattr(offloading, "bring", bring)
    loaded = load(recipe.backbone, device="cpu")
    trained = applied(recipe, loaded.model)
    with packing(loaded.model):
        real = real_peak(trained, loaded.model, recipe, tuple(LENGTHS))
    assert len(there) == LAYERS
    assert fake == pytest.approx(real, rel=0.03)


def test_on_a_card_it_is_proposed_after_checkpointing(deep: Callable[..., Recipe]) -> None:
    long, lengths = {"micro_batch_tokens": 8000, "max_length": 8000}, [8000] * 4
    recipe = deep(gradient_checkpointing=False, **long)
    least = predict(deep(**long), lengths, device="cuda").needed_bytes
    found = fit_into(recipe, lengths, int(least / 0.95) - 20_000_000, device="cuda")
    assert found.fits
    assert found.changes == ("--train.gradient-checkpointing", "--train.activation-offloading")
    assert Recipe.model_validate(found.recipe.model_dump())


def test_inputs_that_main_memory_cannot_hold_are_refused(
    deep: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "gpu_here", lambda: ("card", 24 * 10**9))
    recipe = deep(activation_offloading=True, batch_size=64, micro_batch_tokens=64 * 4000)
    assert planned(recipe, [4000] * 64)[1].offloaded > 2 * 10**9
    monkeypatch.setattr(preflight, "ram_bytes", lambda: 2 * 10**9)
    with pytest.raises(RecipeError, match=r"activation_offloading needs \d\.\d GB of main memory"):
        planned(recipe, [4000] * 64)
