"""A feed-forward part in tiles of positions is the part as a whole, but for rounding, and holds less."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support import tiny_models
from support.tiny_models import FAMILIES
from torch import nn

from ptune.config.recipe import Recipe, Train
from ptune.errors import RecipeError
from ptune.fine_tune import train
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.training.journal.metrics_log import read
from ptune.training.layers.tiles import feed_forwards, tile_feed_forwards
from ptune.training.preparation import applied

from .conftest import Make, fingerprint, interrupt, refused

WITHOUT = {"opt"}  # whose layers hold the two matrices themselves


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.build(tmp_path / "base", "llama", num_hidden_layers=3)


def gradients_of(family: str, method: Any, **options: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a row of 40 tokens."""
    backbone = tiny_models.model(family)
    backbone.requires_grad_(False)
    model = applied(Recipe(method=method, train=Train(**options)), backbone).train()
    for name, parameter in model.named_parameters():  # B is 0 at first, and A's gradient with it
        if "lora_B" in name:
            # Not constant: a LayerNorm would remove what is the same in all channels, and leave gradients of rounding alone.
            parameter.data = torch.linspace(-0.01, 0.02, parameter.numel()).view_as(parameter)
    loss = model(torch.arange(40)[None] % 37, use_cache=False).logits.square().mean()
    loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return float(loss), found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - WITHOUT))
def test_losses_and_gradients_agree_to_rounding(family: str, checkpointing: bool) -> None:
    """40 positions in tiles of 16, 16 and 8; float64 would show any other difference, float32 rounds at 1e-7."""
    whole = gradients_of(family, Lora(r=2), gradient_checkpointing=checkpointing)
    tiled = gradients_of(family, Lora(r=2), gradient_checkpointing=checkpointing, tiled_mlp=16)
    assert tiled[0] == pytest.approx(whole[0], rel=1e-6)
    assert tiled[1].keys() == whole[1].keys()
    assert any("mlp" in name for name in whole[1])
    for name, gradient in whole[1].items():
        torch.testing.assert_close(
            tiled[1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())
        )


@pytest.mark.parametrize("method", [Full(), FreezeExceptLast(layers=1)])
def test_gradients_of_whole_weights_agree_too(method: Any) -> None:
    whole, tiled = (
        gradients_of("qwen2", method, gradient_checkpointing=True, tiled_mlp=tile)[1] for tile in (None, 16)
    )
    for name, gradient in whole.items():
        torch.testing.assert_close(tiled[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_of_every_family_has_one_or_the_model_is_refused(family: str) -> None:
    model = tiny_models.model(family, num_hidden_layers=3)
    assert len(feed_forwards(model)) == (0 if family in WITHOUT else 3)
    if family in WITHOUT:
        with pytest.raises(RecipeError, match=rf"tiled_mlp: the layers of {type(model).__name__} have no"):
            applied(Recipe(train=Train(tiled_mlp=16)), model)


def test_experts_are_refused() -> None:
    """A router's loss is over a whole row."""
    with pytest.raises(RecipeError, match="Qwen3MoeForCausalLM"):
        applied(Recipe(train=Train(tiled_mlp=16)), tiny_models.model("qwen3_moe"))


def test_only_training_is_tiled() -> None:
    """What is evaluated and proved is the model as everybody computes it."""
    ids = torch.arange(40)[None] % 37
    plain, tiled = tiny_models.model("llama"), tiny_models.model("llama")
    seen: list[int] = []
    for part in feed_forwards(tiled):
        part.act_fn.register_forward_hook(lambda _m, _i, output: seen.append(output.shape[1]))
    tiled = applied(Recipe(train=Train(tiled_mlp=16)), tiled)
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, tiled.eval()(ids).logits)
        assert set(seen) == {40}
        seen.clear()
        tiled.train()(ids)
    assert seen == [16, 16, 8] * 2


def test_a_tile_runs_the_forward_that_a_part_has() -> None:
    """One that something else has replaced, too."""
    model, seen = tiny_models.model("llama").train(), []

    def noted(own: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[1])
        return own(x)

    for part in feed_forwards(model):
        part.forward = functools.partial(noted, part.forward)
    tile_feed_forwards(model, 16)
    model(torch.arange(40)[None] % 37)
    assert seen == [16, 16, 8] * 2


@pytest.mark.parametrize("backbone", [{"quantize": "none"}, {"quantize": "nf4"}, {"stream": True}])
def test_a_run_learns_the_same(make: Make, tmp_path: Path, base: Path, backbone: dict[str, Any]) -> None:
    runs = [
        train(
            make(
                backbone={"model": str(base), **backbone}, max_steps=4, gradient_checkpointing=True,
                tiled_mlp=tile, schedule="constant", lr=1e-4,
            ),
            tmp_path / f"{tile}",
        )
        for tile in (None, 16)
    ]  # fmt: skip
    for name in ("loss", "grad_norm", "validation_loss"):
        whole, tiled = ([entry[name] for entry in read(run.metrics_path) if name in entry] for run in runs)
        assert tiled == pytest.approx(whole, rel=1e-4)
    assert runs[0].record().hops[0].passed
    assert runs[1].record().hops[0].passed


@pytest.mark.parametrize("method", [Lora(r=4, dropout=0.2), Full()])
def test_interrupted_and_resumed_is_uninterrupted(
    make: Make, tmp_path: Path, base: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 3)
    recipe = make(
        method=method, backbone={"model": str(base)}, max_steps=6, gradient_checkpointing=True, tiled_mlp=16
    )
    assert train(recipe, tmp_path / "broken").record().status == "interrupted"
    runs = train(recipe, tmp_path / "broken", resume=True), train(recipe, tmp_path / "whole")
    folders = [run.adapter_path if isinstance(method, Lora) else run.model_path for run in runs]
    assert fingerprint(folders[0]) == fingerprint(folders[1])


def test_a_model_without_one_is_refused_before_a_step(make: Make, tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "opt", "opt")
    said = refused(RecipeError, make(backbone={"model": str(folder)}, tiled_mlp=16), tmp_path / "run")
    assert said.endswith("leave it out")


def test_a_tile_has_sixteen_positions_or_more() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 16"):
        Train(tiled_mlp=8)


def _class(name: str, forward: Callable[..., Any], *linears: nn.Module) -> nn.Module:
    module = type(name, (nn.Module,), {"forward": forward})()
    for number, linear in enumerate(linears):
        module.add_module(f"linear{number}", linear)
    return module


@pytest.mark.parametrize(
    ("forward", "parts", "is_one"),
    [
        (lambda self, x: x, (nn.Linear(4, 8), nn.Linear(8, 4)), True),
        (lambda self, x: x, (nn.Linear(4, 4),), False),
        (lambda self, x, residual: x, (nn.Linear(4, 8), nn.Linear(8, 4)), False),
        (lambda self, x, **more: x, (nn.Linear(4, 8), nn.Linear(8, 4)), False),
        (lambda self, x: x, (nn.Linear(4, 8), nn.Conv1d(8, 4, 3)), False),
        (lambda self, x: x, (nn.Linear(4, 8), nn.Linear(8, 4), nn.LayerNorm(4)), False),
    ],
)
def test_it_is_told_by_its_structure(
    forward: Callable[..., Any], parts: tuple[nn.Module, ...], is_one: bool
) -> None:
    from transformers.modeling_layers import GradientCheckpointingLayer

    class Layer(GradientCheckpointingLayer):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _class("Inner", forward, *parts)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert len(feed_forwards(nn.ModuleList([Layer(), Layer()]))) == (2 if is_one else 0)
