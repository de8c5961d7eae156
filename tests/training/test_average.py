"""The running average of the weights is PyTorch's, it is validated and saved, and a killed run ends in the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.forked import FSDP2
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.fine_tune import train
from ptune.methods.adalora import AdaLora
from ptune.methods.full import Full
from ptune.training.average import Average

from .conftest import Make, fingerprint, refused


def test_it_is_pytorchs_average() -> None:
    torch.manual_seed(0)
    model, counts = nn.Linear(3, 2), [0]

    def of(average: torch.Tensor, own: torch.Tensor, _: Any) -> torch.Tensor:
        decay = min(0.7, (1 + counts[0]) / (10 + counts[0]))
        return decay * average + (1 - decay) * own

    theirs = AveragedModel(model, avg_fn=of)
    theirs.update_parameters(model)  # its first call copies
    ours = Average(list(model.named_parameters()), 0.7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    for step in range(1, 31):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        counts[0] = step
        theirs.update_parameters(model)
        ours.follow(step)
    own = {name: one.detach().clone() for name, one in model.named_parameters()}
    with ours.in_place():
        found = {name: one.detach().clone() for name, one in model.named_parameters()}
    for name, one in theirs.module.named_parameters():
        assert (found[name] - one).abs().max() < 1e-6
        assert not torch.equal(found[name], own[name])
        assert torch.equal(model.get_parameter(name), own[name])  # what goes on training


def with_all(recipe: Recipe) -> Recipe:
    """The recipe with noise on its embeddings and smoothed labels."""
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"label_smoothing": 0.1})})


def test_a_killed_run_ends_in_the_same_bytes(make: Make, farm: Callable[..., Any], tmp_path: Path) -> None:
    recipe = with_all(
        make(max_steps=6, validate_every=2, save_every=1, ema=0.8, neftune_alpha=5.0, micro_batch_tokens=64)
    )
    whole = farm(recipe, tmp_path / "whole")
    assert whole.codes == [0], whole.said
    killed = farm(recipe, tmp_path / "broken", kill_at=whole.operations * 6 // 10)
    assert killed.codes == [-9], killed.said
    assert list((tmp_path / "broken" / "checkpoints").glob("step-*"))
    assert not (tmp_path / "broken" / "adapter").exists()
    assert farm(recipe, tmp_path / "broken", resume=True).codes == [0]
    assert fingerprint(tmp_path / "broken" / "adapter") == fingerprint(tmp_path / "whole" / "adapter")


@pytest.mark.parametrize("method", [None, Full()], ids=["lora", "full"])
def test_what_is_saved_is_the_average(
    method: Any, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(make(method=method, max_steps=4, validate_every=4, ema=0.9, lr=1e-2), tmp_path / "run")
    assert "kept their running average (train.ema 0.9) instead of" in capsys.readouterr().err
    last = run.checkpoints_path / "step-4"
    saved = load_file(
        (run.adapter_path / "adapter_model.safetensors")
        if method is None
        else run.model_path / "model.safetensors"
    )
    average, weights = load_file(last / "average.safetensors"), load_file(last / "weights.safetensors")
    assert average.keys() == weights.keys()
    for name, one in average.items():
        assert torch.equal(saved[name.replace(".default.", ".")], one), name
    assert any(not torch.equal(average[name], one) for name, one in weights.items())


def test_what_is_validated_is_the_average(make: Make, tmp_path: Path) -> None:
    """Of steps as long as these the weights themselves are far from their average."""
    losses = []
    for ema in (None, 0.999):
        run = train(make(max_steps=2, validate_every=1, ema=ema, lr=5e-2), tmp_path / str(ema))
        losses.append([row["validation_loss"] for row in run.metrics() if "validation_loss" in row])
    assert losses[0][0] != losses[1][0]
    steps = [[row["loss"] for row in _steps(tmp_path / str(ema))] for ema in (None, 0.999)]
    assert steps[0] == steps[1]  # training itself is the same


def _steps(folder: Path) -> list[dict[str, Any]]:
    from ptune.formats.run import Run

    return [row for row in Run(folder).metrics() if "lr" in row]


@pytest.mark.parametrize("request_", [{}, {"environment": FSDP2}], ids=["ddp", "fsdp2"])
def test_processes_keep_the_same_average(
    request_: dict[str, Any], make: Make, farm: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = make(max_steps=3, validate_every=3, ema=0.9, backbone={"dtype": "float32"})
    for name, request in {"alone": {}, "two": {"processes": 2, **request_}}.items():
        answer = farm(recipe, tmp_path / name, **request)
        assert set(answer.codes) == {0}, answer.said
    alone, two = (
        load_file(tmp_path / name / "checkpoints" / "step-3" / "average.safetensors")
        for name in ("alone", "two")
    )
    assert alone.keys() == two.keys()
    for name, one in alone.items():
        torch.testing.assert_close(two[name], one, rtol=1e-3, atol=1e-5)


def test_ranks_that_were_given_up_are_not_averaged(make: Make, tmp_path: Path) -> None:
    said = refused(RecipeError, make(method=AdaLora(), ema=0.9), tmp_path / "run")
    assert "train.ema does not go with method AdaLora" in said


def test_the_plan_counts_it(make: Make) -> None:
    from ptune.planning.prediction import predict

    plain, averaged = (predict(make(ema=ema), [40] * 8, device="cpu") for ema in (None, 0.99))
    assert averaged.optimiser - plain.optimiser == plain.adapter
