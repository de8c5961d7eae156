"""A run on rewards: it earns more, certifies every step, resumes to the byte, and its adapter is one like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ptune import publish
from ptune.config.recipe import Data, Recipe
from ptune.config.reinforcement import LOSSES, PAIR_LOSSES
from ptune.data.shapes.prompts import Prompt
from ptune.engine.decoder.engine import Engine
from ptune.errors import PtuneError, RecipeError
from ptune.evaluation.reinforcement.evaluate import evaluate_run
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.lora import Lora
from ptune.methods.prompt_tuning import PromptTuning
from ptune.tasks.own_answers.policy import Policy
from ptune.training.callbacks import StepInfo
from ptune.training.journal.metrics_log import read

from .conftest import Make


def steps_of(run: Run) -> list[dict[str, Any]]:
    return [entry for entry in read(run.metrics_path) if "reward" in entry]


def _earned(steps: list[dict[str, Any]]) -> float:
    return float(np.mean([step["reward"] for step in steps]))


def pause_after_two(info: StepInfo) -> None:
    if info.step == 2:
        info.pause()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_earns_more_and_every_step_is_certified(make: Make, loss: str, tmp_path: Path) -> None:
    run = train(
        make(
            task={"loss": loss, "kl": 0.01, "group_size": 8}, max_steps=24, batch_size=8, schedule="constant"
        ),
        tmp_path / "run",
    )
    steps = steps_of(run)
    assert len(steps) == 24
    assert _earned(steps[-4:]) > _earned(steps[:4]) + 0.05
    assert max(step["drift"] for step in steps) < 1e-4
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)  # nothing has been learnt yet
    assert steps[-1]["kl"] > 1e-3
    assert all(step["answer_tokens"] <= 8 for step in steps)


@pytest.mark.parametrize("loss", sorted(PAIR_LOSSES))
def test_the_best_answers_against_the_worst_earn_more(make: Make, loss: str, tmp_path: Path) -> None:
    task = {"loss": loss, "group_size": 8, "beta": 0.3}
    run = train(
        make(task=task, max_steps=24, batch_size=8, schedule="constant", validate_every=24), tmp_path / "run"
    )
    steps = steps_of(run)
    assert len(steps) == 24
    assert _earned(steps[-4:]) > _earned(steps[:4]) + 0.1
    assert max(step["drift"] for step in steps) < 1e-4
    assert steps[0]["margin"] == steps[0]["accuracy"] == 0  # nothing has been learnt yet
    at_first = np.log(2) if loss == "online_dpo" else (1 / (2 * 0.3)) ** 2
    assert steps[0]["loss"] == pytest.approx(at_first, abs=1e-4)
    pairs = [step for step in steps if "accuracy" in step]
    assert all(step["targets"] == round(8 * (1 - step["groups_alike"])) for step in pairs)
    assert np.mean([step["accuracy"] for step in pairs[-8:]]) > 0.6
    assert evaluate_run(run)["rewards"]["gain"]["reward_sampled"]["value"] > 0.1
    assert "Pairs whose better answer gained more" in run.report_path.read_text()


@pytest.mark.parametrize("loss", ["grpo", "online_dpo"])
def test_an_interrupted_run_ends_in_the_same_bytes(make: Make, loss: str, tmp_path: Path) -> None:
    recipe = make(task={"loss": loss}, max_steps=4, save_every=1)
    whole = train(recipe, tmp_path / "whole")
    stopped = train(recipe, tmp_path / "stopped", callbacks=[pause_after_two])
    assert stopped.record().status == "interrupted"
    train(recipe, tmp_path / "stopped", resume=True)
    name = "adapter_model.safetensors"
    assert (whole.adapter_path / name).read_bytes() == (stopped.adapter_path / name).read_bytes()
    timed = {"seconds", "seconds_sampling", "tokens_per_s"}
    journals = [
        [{name: value for name, value in step.items() if name not in timed} for step in steps_of(run)]
        for run in (whole, stopped)
    ]
    assert journals[0] == journals[1]


def test_a_drift_ends_the_run_before_anything_is_learnt_from_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Engine.put
    steps: list[int] = []

    def off(self: Engine, name: str, config: Any, tensors: Any) -> int:
        """From the second step on the engine gets other weights than those that are trained."""
        steps.append(1)
        changed = {
            key: value * (1.5 if len(steps) > 1 and "lora_B" in key else 1) for key, value in tensors.items()
        }
        return put(self, name, config, changed)

    monkeypatch.setattr(Engine, "put", off)
    with pytest.raises(PtuneError, match=r"a sampled token's log-probability is .* off.*drift_limit 0.001"):
        train(make(max_steps=4, validate_every=100), tmp_path / "run")
    (entry,) = steps_of(Run(tmp_path / "run"))
    assert entry["step"] == 1


def test_answers_are_what_the_model_thinks_likely(make: Make, kit: Path, tmp_path: Path) -> None:
    """The engine's log-probabilities are transformers' own, and the answers as frequent as these say."""
    work: list[Policy] = []
    original = Policy.follow

    def kept(self: Policy, model: torch.nn.Module) -> None:
        work.append(self)
        original(self, model)
        prompt = Prompt((1, 5, 9, 11), None, 0, "")  # type: ignore[arg-type]  # which is not asked for its row
        (answers,) = self.sampled([prompt], 64, "seed", base=True)
        model_ = AutoModelForCausalLM.from_pretrained(kit / "model", dtype=torch.float32)
        for answer in answers[:8]:
            ids = torch.tensor([prompt.ids + answer.ids])
            log_p = model_(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            assert torch.allclose(log_p[3:], torch.tensor(answer.log_probabilities), atol=1e-4)
        first = [answer.ids[0] for answer in answers]
        likely = model_(torch.tensor([prompt.ids])).logits[0, -1].softmax(-1)
        assert len(set(first)) > 16  # of a random model, whose distribution is flat
        assert float(likely[first].mean()) > 0.8 * float((likely**2).sum())
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "follow", kept)
        with pytest.raises(KeyboardInterrupt):
            train(make(), tmp_path / "run")
    assert len(work) == 1


def test_a_prompt_that_a_step_has_twice_gets_other_answers(
    make: Make, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fewer prompts than a step takes. The same answers again would count twice, and say nothing."""
    groups: dict[str, list[tuple[tuple[int, ...], ...]]] = {}
    own = Policy.sampled

    def sampled(self: Policy, prompts: Any, *arguments: Any, **named: Any) -> Any:
        found = own(self, prompts, *arguments, **named)
        for prompt, answers in zip(prompts, found, strict=True):
            groups.setdefault(prompt.ids, []).append(tuple(answer.ids for answer in answers))
        return found

    monkeypatch.setattr(Policy, "sampled", sampled)
    few = tmp_path / "few.jsonl"
    few.write_text("".join((kit / "train.jsonl").read_text().splitlines(keepends=True)[:4]))
    recipe = make(max_steps=1, batch_size=8)
    train(
        recipe.model_copy(update={"data": Data(files=(few,), validation=(kit / "test.jsonl",))}),
        tmp_path / "run",
    )
    assert [len(found) for found in groups.values()] == [2] * 4
    assert all(first != second for first, second in groups.values())


def test_a_run_is_evaluated_exported_and_proved_as_any_other(make: Make, tmp_path: Path) -> None:
    run = train(
        make(max_steps=24, batch_size=8, schedule="constant", task={"group_size": 8}), tmp_path / "run"
    )
    found = evaluate_run(run)
    base, tuned = (found["rewards"][side]["reward_sampled"]["value"] for side in ("base", "tuned"))
    assert tuned > base + 0.05
    assert [entry["step"] for entry in run.samples()][-2:] == [24, 24]
    assert all(entry["prompt"] and not entry["expected"] for entry in run.samples())
    assert found["split"] == "test"
    assert found["examples"] == 8
    assert len(found["answers"]) == 2
    page = run.report_path.read_text()
    assert "Reward of the sampled answers" in page
    assert "the answers were the trained model" in page
    assert f"| {tuned:.3f} |" in run.card_path.read_text()
    proof = publish.export_run(run, tmp_path / "bundle", name="rewarded", threads=1, anyway=True)
    assert proof.passed
    with open(run.adapter_path / "ptune.json") as file:
        assert json.load(file)["task"] == "chat"


@pytest.mark.parametrize("loss", ["grpo", "online_dpo"])
def test_rewards_that_are_all_the_same_are_told(
    make: Make, loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(make(reward="same", task={"loss": loss}, max_steps=4), tmp_path / "run")
    assert all(step["groups_alike"] == 1 and step["grad_norm"] == 0 for step in steps_of(run))
    assert "all answers to a prompt had the same reward, 0.5 on average" in capsys.readouterr().err


def test_a_missing_column_is_told_before_anything_is_exported(make: Make, tmp_path: Path) -> None:
    recipe = make(task={"rewards": ("0.5*code",), "bundle": None})
    with pytest.raises(
        PtuneError, match="reward 'code': it needs the column 'tests', and the rows have number"
    ):
        train(recipe, tmp_path / "run")
    assert not [*tmp_path.rglob("manifest.json")]


@pytest.mark.parametrize("dropout", [None, 0.0])
def test_losses_are_not_watched_for_a_collapse(make: Make, dropout: float | None, tmp_path: Path) -> None:
    run = train(make(dropout=dropout, max_steps=1), tmp_path / "run")
    kept = Recipe.load(run.recipe_path).train
    assert (kept.dropout, kept.rollbacks) == (0.0, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"rewards": ()}}, "task.rewards is empty"),
        ({"method": Lora(r=4, dropout=0.1)}, "method.dropout 0.1: with dropout"),
        ({"dropout": 0.1}, "train.dropout 0.1"),
        ({"neftune_alpha": 5.0}, "train.neftune_alpha"),
        ({"ema": 0.9}, "train.ema"),
        ({"order": "short_first"}, "train.order short_first"),
        ({"method": FreezeExceptLast(layers=1)}, "method FreezeExceptLast: reinforcement trains an adapter"),
        ({"method": PromptTuning(num_virtual_tokens=4)}, "method PromptTuning"),
        ({"method": Lora(r=4, init="eva")}, "method.init 'eva'"),
    ],
)
def test_what_the_engine_cannot_follow_is_refused_before_training(
    make: Make, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as refusal:
        train(make(**changes), tmp_path / "run")
    assert said in str(refusal.value)
    assert not (tmp_path / "run" / "run.json").exists()
