"""A run whose answers serve several updates: what it journals, that it learns, and that it resumes to the byte between two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptune.evaluation.reinforcement.evaluate import evaluate_run
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.tasks.own_answers.policy import Policy
from ptune.training.callbacks import StepInfo
from ptune.training.journal.metrics_log import read

from .conftest import Make

TIMED = {"seconds", "seconds_sampling", "tokens_per_s"}


def steps_of(run: Run) -> list[dict[str, Any]]:
    """The journal's lines of steps, without times."""
    return [
        {name: value for name, value in entry.items() if name not in TIMED}
        for entry in read(run.metrics_path)
        if "loss" in entry
    ]


def adapter_of(run: Run) -> bytes:
    return (run.adapter_path / "adapter_model.safetensors").read_bytes()


def pause_at(step: int) -> Any:
    def pause(info: StepInfo) -> None:
        if info.step == step:
            info.pause()

    return pause


def test_answers_are_sampled_certified_and_told_once_and_ratios_from_then_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    sampled = Policy.sampled

    def noted(self: Policy, prompts: Any, each: int, seed: str, **named: Any) -> Any:
        asked.append([prompt.number for prompt in prompts])
        return sampled(self, prompts, each, seed, **named)

    monkeypatch.setattr(Policy, "sampled", noted)
    run = train(
        make(task={"updates": 3, "kl": 0.01}, max_steps=7, lr=1e-2, validate_every=100), tmp_path / "run"
    )
    steps = steps_of(run)
    assert [step["step"] for step in steps] == list(range(1, 8))
    assert len(asked) == len({tuple(numbers) for numbers in asked}) == 3
    for step in steps:
        of_sampling = {"reward", "drift", "mean_log_p", "answer_tokens", "groups_alike"}
        if step["step"] in (1, 4, 7):
            assert of_sampling <= step.keys()
            assert not {"ratio", "clipped"} & step.keys()
            assert step["drift"] < 1e-4
        else:
            assert not of_sampling & step.keys()
            assert 0 < step["clipped"] < 1
            assert step["ratio"] == pytest.approx(1, abs=0.5)
            assert step["ratio"] != 1  # the weights have changed
            assert step["targets"] == 16
        assert "kl" in step
    assert steps[1]["ratio"] != steps[2]["ratio"]
    evaluate_run(run)
    page = run.report_path.read_text()
    assert "Every token of 3 batches of answers, from each of which 3 steps learnt" in page
    assert "Share that was clipped" in page


@pytest.mark.parametrize("task", [{"loss": "grpo"}, {"loss": "gspo", "clip": 0.1}])
def test_several_updates_earn_more(make: Make, task: dict[str, Any], tmp_path: Path) -> None:
    recipe = make(
        task={**task, "updates": 2, "group_size": 8}, max_steps=32, batch_size=8, schedule="constant"
    )
    rewards = [step["reward"] for step in steps_of(train(recipe, tmp_path / "run")) if "reward" in step]
    assert len(rewards) == 16
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.05


@pytest.mark.parametrize("loss", ["grpo", "rloo", "gspo"])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_that_is_interrupted_between_two_updates_ends_in_the_same_bytes(
    make: Make, loss: str, step: int, tmp_path: Path
) -> None:
    recipe = make(task={"loss": loss, "updates": 3}, max_steps=6, save_every=1, keep_checkpoints=9)
    whole = train(recipe, tmp_path / "whole")
    stopped = train(recipe, tmp_path / "stopped", callbacks=[pause_at(step)])
    assert stopped.record().status == "interrupted"
    kept = stopped.checkpoints_path / f"step-{step}" / "sampled.safetensors"
    assert kept.is_file() == (step != 3)
    train(recipe, tmp_path / "stopped", resume=True)
    assert adapter_of(whole) == adapter_of(stopped)
    assert steps_of(whole) == steps_of(stopped)


def test_where_the_answers_are_damaged_the_checkpoint_before_is_gone_on_from(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make(task={"updates": 4}, max_steps=4, save_every=1, keep_checkpoints=9)
    whole = train(recipe, tmp_path / "whole")
    stopped = train(recipe, tmp_path / "stopped", callbacks=[pause_at(3)])
    (stopped.checkpoints_path / "step-3" / "sampled.safetensors").unlink()
    (stopped.checkpoints_path / "step-2" / "sampled.safetensors").write_bytes(b"other")
    train(recipe, tmp_path / "stopped", resume=True)
    told = capsys.readouterr().err
    assert "step-3 cannot be used (sampled.safetensors is damaged)" in told
    assert "step-2 cannot be used" in told
    assert adapter_of(whole) == adapter_of(stopped)
