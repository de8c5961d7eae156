"""A run that is killed (SIGKILL) at any moment and resumed reaches the bytes of the run that was never killed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.forked import FSDP2

from ptune.config.recipe import Recipe
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.lora import Lora
from ptune.training.journal.metrics_log import read

from .conftest import Make, fingerprint

SIGKILL = -9
Farm = Callable[..., Any]

# Everything whose state a resumed run must find again: dropout, accumulation, packing, schedule, validation, and only
# one checkpoint to fall back to.
TRAIN: dict[str, Any] = {
    "backbone": {"dtype": "float32"},
    "max_steps": 8,
    "micro_batch_tokens": 96,
    "schedule": "wsd",
    "warmup": 0.2,
    "weight_decay": 0.1,
    "validate_every": 2,
    "save_every": 1,
    "keep_checkpoints": 1,
    "dropout": 0.1,
}


def outcome(out: Path) -> tuple[dict[str, str], list[dict[str, Any]], str]:
    """What must be the same: what was trained, what was measured, and what was answered meanwhile."""
    folder = out / "adapter" if (out / "adapter").is_dir() else out / "model"
    measured = [
        {name: value for name, value in entry.items() if not name.startswith(("seconds", "tokens"))}
        for entry in read(out / "metrics.jsonl")
    ]
    samples = out / "samples.jsonl"
    return fingerprint(folder), measured, samples.read_text() if samples.exists() else ""


def kill_again_and_again(farm: Farm, recipe: Recipe, folder: Path, kills: int, **request: Any) -> None:
    """Half of the kills are aimed at an operation on a file (a checkpoint that is being written), half at a moment."""
    whole = farm(recipe, folder / "whole", **request)
    assert set(whole.codes) == {0}, whole.said
    expected = outcome(folder / "whole")
    dice, done, attempt = random.Random(0), 0, 0
    while done < kills:
        out, ended = folder / f"killed-{attempt}", False
        while not ended:
            aimed = {"kill_at": dice.randrange(1, whole.operations)}
            late = {"kill_after_s": dice.uniform(0.1, whole.seconds)}
            how = {} if done >= kills else aimed if dice.random() < 0.5 else late
            answer = farm(recipe, out, resume=out.exists(), **how, **request)
            ended = answer.codes[0] == 0
            assert ended or answer.codes[0] == SIGKILL, answer.said
            done += answer.codes[0] == SIGKILL
        assert outcome(out) == expected
        assert not [path for path in out.rglob("*") if path.suffix in (".part", ".old")]
        attempt += 1


def test_twelve_kills_change_no_byte(make: Make, farm: Farm, tmp_path: Path) -> None:
    recipe = make(method=Lora(r=4, dropout=0.2), **TRAIN)
    kill_again_and_again(farm, recipe, tmp_path, kills=12)


def test_sharded_over_two_processes_too(make: Make, farm: Farm, tmp_path: Path) -> None:
    recipe = make(method=Lora(r=4, dropout=0.2), **TRAIN)
    kill_again_and_again(farm, recipe, tmp_path, kills=2, processes=2, environment=FSDP2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "request_"),
    [
        ({"method": Lora(r=4, dropout=0.2), "backbone": {"quantize": "nf4", "dtype": "float32"}}, {}),
        ({"method": Lora(r=4, dropout=0.2), "backbone": {"quantize": "int8", "dtype": "float32"}}, {}),
        ({"method": FreezeExceptLast(layers=1), "gradient_checkpointing": True}, {}),
        ({"method": Lora(r=4, dropout=0.2), "patience": 1, "lr": 0.3, "save_every": 3}, {}),
        ({"method": Lora(r=4, dropout=0.2)}, {"packed": False}),
        ({"method": Lora(r=4, dropout=0.2)}, {"processes": 2}),
        ({"method": Lora(r=4, dropout=0.2)}, {"processes": 2, "environment": FSDP2}),
    ],
)
def test_forty_more_kills_of_each_kind(
    make: Make, farm: Farm, tmp_path: Path, changes: dict[str, Any], request_: dict[str, Any]
) -> None:
    kill_again_and_again(farm, make(**{**TRAIN, **changes}), tmp_path, kills=40, **request_)


def test_a_run_that_died_before_it_began_is_begun(make: Make, farm: Farm, tmp_path: Path) -> None:
    for operation in (1, 6, 20):
        out = tmp_path / str(operation)
        assert farm(make(**{**TRAIN, "max_steps": 1}), out, kill_at=operation).codes == [SIGKILL]
        assert not (out / "run.json").exists()
        assert farm(make(**{**TRAIN, "max_steps": 1}), out, resume=True).codes == [0]
        assert json.loads((out / "run.json").read_text())["status"] == "finished"
