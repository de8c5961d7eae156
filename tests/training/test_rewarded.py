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
from ptune.training.journal.metrics_log import read

from .conftest import Make
from .test_killed import TRAIN, kill_again_and_again

Farm = Callable[..., Any]


@pytest.fixture(params=[("grpo", 1), ("gspo", 2), ("online_dpo", 1)], ids=str)
def prompts(make: Make, request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    rows = [{"messages": one[:-1]} for one in conversations(16)]
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = make(method=Lora(r=4), **{**TRAIN, "dropout": None, "max_steps": 4})
    publish.export_backbone(recipe.backbone, tmp_path / "bundle", threads=1)
    loss, updates = request.param
    task = Reinforcement(
        loss=loss,
        updates=updates,
        clip=None if updates == 1 else 0.05,
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
        journals.append([entry for entry in read(out / "metrics.jsonl") if "loss" in entry])
    one, two = journals
    assert len(one) == len(two) == 4
    assert [entry.keys() for entry in one] == [entry.keys() for entry in two]
    for name in ("reward", "answer_tokens", "groups_alike"):
        # the very same answers, at least before weights differ by rounding
        sampled = [[entry[name] for entry in of if name in entry][:2] for of in journals]
        assert len(sampled[0]) == 2
        assert sampled[0] == sampled[1]
    for name in ("margin", "accuracy", "ratio", "clipped"):
        seen = [[entry[name] for entry in of if name in entry][:2] for of in journals]
        assert seen[0] == pytest.approx(seen[1], abs=1e-4)
    assert [("ratio" in entry) for entry in one] == [
        prompts.task.steps_per_batch == 2 and at % 2 == 1 for at in range(4)
    ]
    assert max(entry["drift"] for entry in two if "drift" in entry) < 1e-4
    assert [entry["grad_norm"] for entry in one] == pytest.approx(
        [entry["grad_norm"] for entry in two], rel=0.02
    )
