"""A run on rewarded answers is the same in two processes, and after kills."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import conversations

from ptune import publish
from ptune.config.recipe import Data, Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.methods.lora import Lora
from ptune.training.metrics_log import read

from .conftest import Make
from .test_killed import TRAIN, kill_again_and_again

Farm = Callable[..., Any]


@pytest.fixture(params=["grpo", "online_dpo"])
def prompts(make: Make, request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    rows = [{"messages": one[:-1]} for one in conversations(16)]
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = make(method=Lora(r=4), **{**TRAIN, "dropout": None, "max_steps": 4})
    publish.export_backbone(recipe.backbone, tmp_path / "bundle", threads=1)
    task = Reinforcement(
        loss=request.param,
        rewards=("length:2", "0.1*repetition"),
        answer_tokens=6,
        group_size=3,
        bundle=tmp_path / "bundle",
    )
    return recipe.model_copy(update={"task": task, "data": Data(files=(tmp_path / "prompts.jsonl",))})


def test_kills_change_no_byte(prompts: Recipe, farm: Farm, tmp_path: Path) -> None:
    kill_again_and_again(farm, prompts, tmp_path, kills=3)


def test_two_processes_equal_one(prompts: Recipe, farm: Farm, tmp_path: Path) -> None:
    journals = []
    for processes in (1, 2):
        out = tmp_path / f"of-{processes}"
        answer = farm(prompts, out, processes=processes)
        assert set(answer.codes) == {0}, answer.said
        journals.append([entry for entry in read(out / "metrics.jsonl") if "reward" in entry])
    one, two = journals
    assert len(one) == len(two) == 4
    for name in (
        "reward",
        "answer_tokens",
        "groups_alike",
    ):  # the very same answers, at least before weights differ by rounding
        assert [entry[name] for entry in one][:2] == [entry[name] for entry in two][:2]
    for name in {"margin", "accuracy"} & one[0].keys():
        assert [entry[name] for entry in one][:2] == pytest.approx(
            [entry[name] for entry in two][:2], abs=1e-4
        )
    assert max(entry["drift"] for entry in two) < 1e-4
    assert [entry["grad_norm"] for entry in one] == pytest.approx(
        [entry["grad_norm"] for entry in two], rel=0.02
    )
