"""LoRA-GA begins with the gradient of the first step as training takes it: of all its rows, each as often as it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ptune.config.recipe import Data, Recipe
from ptune.fine_tune import train
from ptune.methods.lora import Lora

from .conftest import Make


def begun(recipe: Recipe, out: Path) -> dict[str, torch.Tensor]:
    """The factors after a step that moves nothing."""
    return load_file(train(recipe, out).checkpoints_path / "step-1" / "weights.safetensors")


def recipe_of(make: Make, **train: int) -> Recipe:
    return make(method=Lora(r=2, init="lora_ga"), max_steps=1, lr=1e-12, batch_size=8, **train)


def check_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Directions are alike up to their signs."""
    assert one.keys() == other.keys()
    for name, factor in one.items():
        assert (factor.abs() - other[name].abs()).abs().max() <= 2e-2 * factor.abs().max(), name


def test_it_is_the_same_however_its_rows_are_cut_up(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_alike(
        *(begun(recipe_of(make, micro_batch_tokens=most), tmp_path / str(most)) for most in (64, 4096))
    )
    assert "begins with the rows of the first step\n" in capsys.readouterr().err


def test_its_rows_count_as_often_as_in_training(make: Make, kit: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (kit / "train.jsonl").read_text().splitlines()]
    found = []
    for answer in ("yes", "certainly not"):
        for row in rows[::2]:  # next to nothing
            row["weight"], row["messages"][-1]["content"] = 1e-5, answer
        path = tmp_path / f"{answer}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = Data(files=(path,), validation=(kit / "test.jsonl",))
        found.append(begun(recipe_of(make).model_copy(update={"data": data}), tmp_path / answer))
    check_alike(*found)
