"""The optimisers by name: what each learns, refuses and resumes to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.optim import PagedAdamW8bit
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from pydantic import ValidationError
from support import tiny_models
from support.every_method import FAMILIES, begun
from torch import nn

from ptune.config.optimizers import OPTIMIZERS
from ptune.config.recipe import Recipe, Train
from ptune.errors import RecipeError
from ptune.fine_tune import train
from ptune.methods.boft import Boft
from ptune.methods.full import Full
from ptune.methods.ia3 import Ia3
from ptune.methods.lora import Lora
from ptune.methods.peft_method import PeftMethod
from ptune.training.checkpoint import Checkpoints, State, trained
from ptune.training.distributed import check_launch
from ptune.training.journal.metrics_log import read
from ptune.training.preparation import optimizer_for

from .conftest import Make, fingerprint, refused

HERE = [name for name, row in OPTIMIZERS.items() if not row.paged]
WIDE = Lora(r=64, alpha=64)  # bitsandbytes keeps matrices of fewer than 4,096 weights in 32 bits
RATES = {"lion": 5e-4, "lion_8bit": 5e-4}


@pytest.mark.parametrize("name", HERE)
def test_each_learns_and_goes_on_to_the_same_bytes(
    make: Make, tmp_path: Path, name: str, interrupt_at: None
) -> None:
    recipe = make(
        method=WIDE,
        max_steps=8,
        weight_decay=0.1,
        optimizer=name,
        lr=RATES.get(name, 5e-3),
        lora_plus_ratio=2,
    )
    broken = train(recipe, tmp_path / "broken")
    assert (broken.record().status, broken.record().steps) == ("interrupted", 3)
    resumed = train(recipe, tmp_path / "broken", resume=True)
    whole = train(recipe, tmp_path / "whole")
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)
    losses = [[e["loss"] for e in read(run.metrics_path) if "loss" in e] for run in (resumed, whole)]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 0.1
    assert whole.record().optimizer == name


def test_the_state_of_8_bits_is_in_8_bits(make: Make, tmp_path: Path) -> None:
    model = get_peft_model(tiny_models.model("llama"), LoraConfig(r=64, target_modules="all-linear"))
    for name in ("adamw_8bit", "lion_8bit"):
        optimizer = stepped(model, Train(optimizer=name))
        kinds = {entry["state1"].dtype for entry in optimizer.state.values()}
        assert torch.uint8 in kinds


@pytest.mark.parametrize(
    ("family", "method", "part"),
    [
        ("llama", Ia3(), "ia3_l"),
        ("llama", Boft(), "boft_s"),
        ("llama", Lora(r=2, dora=True), "lora_magnitude_vector"),
        ("resnet", Lora(r=2, dora=True), "lora_magnitude_vector"),
    ],
)
def test_a_gain_does_not_decay(family: str, method: PeftMethod, part: str) -> None:
    """IA3's begin at 1: at 0 there would be nothing left of the layer."""
    model = begun(method, FAMILIES[family](), family)
    before = {name: weight.clone() for name, weight in trained(model)}
    optimizer = optimizer_for(model, Train(lr=0.1, weight_decay=0.5))
    for _, weight in trained(model):
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    gains = {name for name in before if f".{part}." in name}
    assert gains
    for name, weight in trained(model):
        shrunk = 1.0 if name in gains or weight.ndim < 2 else 1 - 0.1 * 0.5
        torch.testing.assert_close(weight, shrunk * before[name])


def stepped(model: nn.Module, options: Train) -> torch.optim.Optimizer:
    """The optimiser after a step with gradients of one."""
    optimizer = optimizer_for(model, options)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_lora_plus_is_pefts() -> None:
    """B's learning rate is that many times A's, for the same weights as in peft's own optimiser."""
    model = get_peft_model(tiny_models.model("llama"), LoraConfig(r=4, target_modules="all-linear"))
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    expected = {id(p): group["lr"] for group in theirs.param_groups for p in group["params"]}
    ours = optimizer_for(model, Train(lr=1e-3, lora_plus_ratio=16.0))
    rates = {id(p): 1e-3 * group["lr_factor"] for group in ours.param_groups for p in group["params"]}
    assert rates == pytest.approx(expected)
    assert len(set(rates.values())) == 2


def test_betas_and_eps_reach_the_optimiser() -> None:
    model = nn.Linear(4, 4)
    (group, _) = optimizer_for(model, Train(betas=(0.8, 0.95), eps=1e-6)).param_groups
    assert (tuple(group["betas"]), group["eps"]) == ((0.8, 0.95), 1e-6)
    (group, _) = optimizer_for(model, Train(optimizer="lion", betas=(0.95, 0.98))).param_groups
    assert tuple(group["betas"]) == (0.95, 0.98)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "muon", "betas": (0.9, 0.99)}, "'muon' has no betas; these have: adamw"),
        ({"optimizer": "lion", "eps": 1e-8}, "'lion' has no eps"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
        ({"optimizer": "sgd"}, "adamw"),
    ],
)
def test_what_an_optimiser_does_not_have_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Train(**options)


def test_lora_plus_needs_factors() -> None:
    with pytest.raises(ValidationError, match="lora_plus_ratio needs method Lora"):
        Recipe(method=Full(), train=Train(lora_plus_ratio=4))


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row.paged])
def test_paging_without_a_gpu_is_refused(make: Make, tmp_path: Path, name: str) -> None:
    said = refused(RecipeError, make(optimizer=name), tmp_path / "run")
    assert name in said
    assert said.endswith(f"use {name.removeprefix('paged_')}")


def test_shards_are_trained_by_adamw_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_launch(make())
    with pytest.raises(RecipeError, match=r"FSDP with train\.optimizer lion: use adamw"):
        check_launch(make(optimizer="lion"))


def test_muon_trains_matrices_alone(make: Make, tmp_path: Path) -> None:
    said = refused(RecipeError, make(method=Full(), optimizer="muon"), tmp_path / "run")
    assert "'muon' trains matrices alone" in said
    assert "norm.weight" in said


def test_a_paged_state_is_restored(tmp_path: Path) -> None:
    """bitsandbytes runs the paged ones on a CPU, too, unpaged: the same path as on a GPU, where it has not been run."""
    torch.manual_seed(0)
    models = [nn.Linear(64, 64), nn.Linear(64, 64)]
    checkpoints = Checkpoints(tmp_path, keep=1)
    kept, again = (PagedAdamW8bit(model.parameters(), lr=0.1) for model in models)
    step(models[0], kept)
    checkpoints.save(State(step=1), models[0], kept)
    checkpoints.resume(models[1], again)
    for model, optimizer in zip(models, (kept, again), strict=True):
        step(model, optimizer)
    assert torch.equal(models[0].weight, models[1].weight)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.linspace(-1, 1, 64)[None]).square().sum().backward()
    optimizer.step()
