"""Each disease is planted, and is found, named and explained; health is not mistaken for one."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ptune import fine_tune
from ptune.config.recipe import Recipe
from ptune.errors import PtuneError
from ptune.fine_tune import train
from ptune.training import loop
from ptune.training.checkpoint import State
from ptune.training.guards.diagnosis import Alive, Watch
from ptune.training.job import Job
from ptune.training.order import Order

from .conftest import Make, refused

Change = Callable[[nn.Module], None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change, int], None]:
    """plant(change, step): `change(model)` happens before that step, counted from 1."""

    def planted(change: Change, at: int) -> None:
        step = loop.optimizer_step

        def changed(job: Job, batch: Any, number: int, steps: int) -> float:
            if number + 1 == at:
                with torch.no_grad():
                    change(job.model)
            return step(job, batch, number, steps)

        monkeypatch.setattr(loop, "optimizer_step", changed)

    return planted


def newest(out: Path) -> int:
    return int(json.loads((out / "checkpoints" / "latest.json").read_text())["step"])


def test_a_weight_that_is_no_number_is_named(make: Make, tmp_path: Path, plant: Any) -> None:
    def damage(model: nn.Module) -> None:
        model.get_parameter("base_model.model.model.layers.1.mlp.down_proj.base_layer.weight")[3, 5] = float(
            "nan"
        )

    plant(damage, 4)
    said = refused(PtuneError, make(save_every=1), tmp_path / "run")
    assert said.startswith("training diverged: the loss of step 4 is nan\n")
    assert (
        "weights that are not finite: base_model.model.model.layers.1.mlp.down_proj.base_layer.weight\n"
        in said
    )
    assert (
        "first value that is not finite: base_model.model.model.layers.1.mlp.down_proj.base_layer, " in said
    )
    assert "whose input was finite, in every example of those 4" in said
    assert "check that the backbone is intact" in said
    assert "the checkpoint of step 3 is intact" in said
    assert newest(tmp_path / "run") == 3


def test_the_example_is_named_that_has_the_token(
    make: Make, tmp_path: Path, plant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one example has this token, whose embedding makes the first norm overflow."""
    recipe, found = make(save_every=1), list[int]()

    def damage(model: nn.Module) -> None:
        examples = held["examples"]
        batch = Order(len(examples), recipe.train.batch_size, recipe.train.seed).batch(1)
        ids = {index: set(examples[index].ids) for index in batch}
        index, token = next(
            (index, token)
            for index in batch
            for token in ids[index]
            if sum(token in other for other in ids.values()) == 1
        )
        found.append(index)
        model.get_input_embeddings().weight[token] = float("inf")

    held: dict[str, Any] = {}

    def fit(job: Job, state: State) -> tuple[State, loop.Ending]:
        held.update(examples=job.examples)
        return loop.fit(job, state)

    monkeypatch.setattr(fine_tune, "fit", fit)
    plant(damage, 2)
    said = refused(PtuneError, recipe, tmp_path / "run")
    assert f"model.embed_tokens, whose input was finite, in training examples {found[0]} of those 4" in said
    assert "look at these examples" not in said  # the weight is to blame, and is named
    assert "embed_tokens.weight" in said


def test_a_learning_rate_far_too_high(make: Make, tmp_path: Path) -> None:
    said = refused(PtuneError, make(lr=1e30, max_grad_norm=0, warmup=0), tmp_path / "run")
    assert "training diverged: the validation loss of step 1 is nan" in said
    assert "largest trained weight 1e+30" in said
    assert "lower train.lr" in said
    assert "nothing was saved yet" in said


def test_a_gradient_that_is_no_number(make: Make, tmp_path: Path, plant: Any) -> None:
    def damage(model: nn.Module) -> None:
        parameter = model.get_parameter("base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight")
        parameter.register_hook(lambda gradient: gradient * float("inf"))

    plant(damage, 2)
    said = refused(PtuneError, make(), tmp_path / "run")
    assert "the gradient norm of step 2 is nan" in said or "the gradient norm of step 2 is inf" in said
    assert "each example alone has a finite loss" in said
    assert "the last of them in base_model.model.model.layers.0.mlp.up_proj.lora_B" in said


def test_weights_that_are_no_numbers_are_never_saved(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop.optimizer_step

    def breaking(job: Job, batch: Any, number: int, steps: int) -> float:
        loss = step(job, batch, number, steps)
        if number == 2:
            next(p for p in job.model.parameters() if p.requires_grad).data[0, 0] = float("inf")
        return loss

    monkeypatch.setattr(loop, "optimizer_step", breaking)
    recipe = make(save_every=1, validate_every=100)
    said = refused(PtuneError, recipe, tmp_path / "run")
    assert "after step 3 there are infinite or NaN values in base_model.model" in said
    assert newest(tmp_path / "run") == 2
    assert not (tmp_path / "run" / "checkpoints" / "step-3").exists()
    monkeypatch.undo()
    assert train(recipe, tmp_path / "run", resume=True).record().status == "finished"


def test_a_loss_that_runs_away(make: Make, tmp_path: Path, plant: Any) -> None:
    plant(lambda model: model.get_parameter("base_model.model.model.norm.weight").mul_(30), 2)
    recipe = make(lr=1e-6, max_steps=60, validate_every=100, rollbacks=0)
    said = refused(PtuneError, recipe, tmp_path / "run")
    assert "step 21: training is diverging: the loss has been above 12.6 for 20 steps" in said
    assert "it began at 7.71. Lower train.lr" in said


@pytest.mark.parametrize(
    ("fast", "what"),
    [
        # Weights of that size have scores that float32 no longer holds: PyTorch's gradient becomes zero, ours can be NaN.
        (False, "training is dead: no gradient has reached any trained weight in 20 steps"),
        (True, "training (diverged: the gradient norm of step|is dead)"),
    ],
)
def test_a_model_that_training_has_wrecked(make: Make, tmp_path: Path, fast: bool, what: str) -> None:
    recipe = make(lr=300.0, max_steps=60, warmup=0, schedule="constant", validate_every=100, fast=fast)
    said = refused(PtuneError, recipe, tmp_path / "run")
    assert re.search(what, said)
    assert "lower train.lr" in said


def test_updates_too_small_to_change_anything(make: Make, tmp_path: Path) -> None:
    said = refused(PtuneError, make(lr=1e-30), tmp_path / "run")
    assert "step 6: training is dead: after 6 steps" in said
    assert "raise train.lr" in said


def test_no_gradient_reaches_the_adapter(make: Make, tmp_path: Path, plant: Any) -> None:
    def cut(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.zero_()

    plant(cut, 1)
    said = refused(PtuneError, make(), tmp_path / "run")
    assert "step 3: training is dead: no gradient has reached any trained weight in 3 steps" in said


def see_all(losses: list[float], norms: list[float]) -> list[str]:
    watch = Watch()
    return [said for loss, norm in zip(losses, norms, strict=True) if (said := watch.see(loss, norm))]


@given(
    st.lists(st.tuples(st.floats(0.1, 8.0), st.floats(0.05, 3.0)), min_size=1, max_size=300),
    st.integers(0, 300),
)
def test_ordinary_steps_and_single_spikes_raise_no_alarm(
    steps: list[tuple[float, float]], spike: int
) -> None:
    """Losses and norms within a factor of 80 and 60 of each other, and one norm that is out of all proportion."""
    losses, norms = [loss for loss, _ in steps], [norm for _, norm in steps]
    losses[0] = max(losses[0], 5.0)
    norms[spike % len(norms)] *= 1e6  # only where it would not be the usual
    assert see_all(losses, norms) == []


def test_gradients_that_stay_high_are_exploding() -> None:
    usual = [random.Random(0).uniform(0.5, 2.0) for _ in range(30)]
    said = see_all([3.0] * 36, [*usual, *([500.0] * 6)])
    assert len(said) == 2
    assert "exploding: the gradient norm is 500, over 100 times its median" in said[0]
    assert see_all([3.0] * 34, [*usual, *([500.0] * 4)]) == []


def test_alive_looks_once_after_the_warm_up() -> None:
    values = iter([1.0, 1.0, 0.9])
    alive = Alive.from_now(lambda: next(values), steps=1000, warmup_steps=50)
    assert alive.trouble(50) is None
    assert "after 51 steps" in (alive.trouble(51) or "")
    assert alive.trouble(51) is None


def test_a_healthy_run_is_left_alone(make: Make, tmp_path: Path) -> None:
    assert train(make(epochs=4, lr=2e-2), tmp_path / "run").record().status == "finished"


def test_every_process_says_the_same(make: Make, farm: Any, tmp_path: Path) -> None:
    from support.forked import FSDP2

    recipe: Recipe = make(lr=1e30, max_grad_norm=0, warmup=0, backbone={"dtype": "float32"})
    answer = farm(recipe, tmp_path / "run", processes=2, environment=FSDP2)
    assert answer.codes == [1, 1], answer.said
    assert answer.said.count("error: training diverged: the validation loss of step 1 is nan") == 2
