"""A run on pairs of answers, or on answers that are judged alone, is the same in two processes, and after kills."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import conversations

from ptune.config.preference import Preference
from ptune.config.recipe import Data, Recipe
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.methods.lora import Lora
from ptune.training.journal.metrics_log import read

from .conftest import Make
from .test_killed import TRAIN, kill_again_and_again

Farm = Callable[..., Any]


@pytest.fixture(params=[Preference(), UnpairedPreference()], ids=["pairs", "judged"])
def pairs(make: Make, tmp_path: Path, request: pytest.FixtureRequest) -> Recipe:
    rows = [
        {"prompt": one[:-1], "chosen": one[-1]["content"].upper(), "rejected": one[-1]["content"]}
        for one in conversations(24)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = make(method=Lora(r=4, dropout=0.2), **TRAIN)
    return recipe.model_copy(update={"task": request.param, "data": Data(files=(tmp_path / "pairs.jsonl",))})


def test_kills_change_no_byte(pairs: Recipe, farm: Farm, tmp_path: Path) -> None:
    kill_again_and_again(farm, pairs, tmp_path, kills=4)


def test_two_processes_equal_one(pairs: Recipe, farm: Farm, tmp_path: Path) -> None:
    still = pairs.train.model_copy(update={"dropout": 0.0})  # whose chance differs between processes
    plain = pairs.model_copy(update={"method": Lora(r=4), "train": still})
    losses = []
    for processes in (1, 2):
        out = tmp_path / f"of-{processes}"
        answer = farm(plain, out, processes=processes)
        assert set(answer.codes) == {0}, answer.said
        losses.append([entry["loss"] for entry in read(out / "metrics.jsonl") if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)
    assert len(losses[0]) == 8
