"""The inputs of checkpointed layers go to main memory and come back the same.

A card's copies run here on a CPU, into ordinary memory: the same code but for the pinned block.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from support import tiny_models
from support.tiny_models import FAMILIES

from ptune.config.recipe import Recipe, Train
from ptune.errors import PtuneError, RecipeError
from ptune.fine_tune import train
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.training import preparation
from ptune.training.journal.metrics_log import read
from ptune.training.memory import offloading
from ptune.training.memory.out_of_memory import memory_errors
from ptune.training.preparation import applied

from .conftest import Make, fingerprint, interrupt, refused

LAYERS = 3


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.build(tmp_path / "base", "llama", num_hidden_layers=LAYERS)


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "check_offloading", lambda *_: None)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[offloading.Away]:
    """What goes to main memory."""
    own, all_of_it = offloading.send, []

    def noted(*arguments: object) -> offloading.Away:
        all_of_it.append(own(*arguments))  # type: ignore[arg-type]
        return all_of_it[-1]

    monkeypatch.setattr(offloading, "send", noted)
    return all_of_it


@pytest.mark.parametrize("backbone", [{"quantize": "none"}, {"quantize": "nf4"}, {"stream": True}])
def test_the_bytes_are_those_of_inputs_that_stay(
    make: Make, tmp_path: Path, base: Path, backbone: dict[str, object], as_on_a_card: None
) -> None:
    runs = []
    for on in (False, True):
        recipe = make(
            method=Lora(r=4, dropout=0.2), backbone={"model": str(base), **backbone}, max_steps=6,
            gradient_checkpointing=True, activation_offloading=on,
        )  # fmt: skip
        runs.append(train(recipe, tmp_path / f"{on}"))
    assert fingerprint(runs[0].adapter_path) == fingerprint(runs[1].adapter_path)
    for name in ("loss", "grad_norm", "validation_loss"):
        series = [[e[name] for e in read(run.metrics_path) if name in e] for run in runs]
        assert series[0] == series[1]


@pytest.mark.parametrize("method", [Lora(r=4, dropout=0.2), Full()])
def test_interrupted_and_resumed_is_uninterrupted(
    make: Make,
    tmp_path: Path,
    base: Path,
    method: Lora | Full,
    as_on_a_card: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt(monkeypatch, 3)
    recipe = make(
        method=method, backbone={"model": str(base)}, max_steps=6, dropout=0.1,
        gradient_checkpointing=True, activation_offloading=True,
    )  # fmt: skip
    assert train(recipe, tmp_path / "broken").record().status == "interrupted"
    resumed, whole = (
        train(recipe, tmp_path / "broken", resume=True),
        train(recipe, tmp_path / "whole"),
    )
    folders = [run.adapter_path if isinstance(method, Lora) else run.model_path for run in (resumed, whole)]
    assert fingerprint(folders[0]) == fingerprint(folders[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_of_every_family_each_layer_sends_its_input(family: str, sent: list[offloading.Away]) -> None:
    gradients = []
    for on in (False, True):
        backbone = tiny_models.model(family, num_hidden_layers=3)
        backbone.requires_grad_(False)
        recipe = Recipe(method=Lora(r=2), train=Train(gradient_checkpointing=True, activation_offloading=on))
        model = applied(recipe, backbone).train()
        for name, parameter in model.named_parameters():  # B is 0 at first, and A's gradient with it
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        model(torch.arange(12)[None], use_cache=False).logits.square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert len(sent) == 3
    assert all(away.kept.shape == (1, 12, 64) for away in sent)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert any(gradient.any() for gradient in gradients[0])


def test_without_a_gpu_it_is_refused(make: Make, tmp_path: Path) -> None:
    said = refused(
        RecipeError, make(gradient_checkpointing=True, activation_offloading=True), tmp_path / "run"
    )
    assert "there is no GPU here: leave it out" in said


def test_it_moves_what_checkpointing_keeps() -> None:
    with pytest.raises(ValidationError, match=r"needs train\.gradient_checkpointing"):
        Train(activation_offloading=True)


@pytest.mark.parametrize(("size", "taken"), [(1, 1), (1000, 1024), (1024, 1024), (2**25 + 1, 2**26)])
def test_a_block_of_pinned_memory_is_a_power_of_two(size: int, taken: int) -> None:
    assert offloading.block_bytes(size) == taken


@pytest.mark.parametrize("on_card", [False, True])
def test_where_memory_runs_out_it_is_named_on_a_card(
    make: Make, on_card: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_card)
    with (
        pytest.raises(PtuneError, match="out of memory") as caught,
        memory_errors(make(gradient_checkpointing=True)),
    ):
        raise MemoryError
    assert ("--train.activation-offloading" in str(caught.value)) is on_card
