"""A student comes nearer to its teacher on its own answers, certifies each such step, and resumes to the byte."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import tiny_models
from transformers import AutoModelForCausalLM

from ptune.backbone.load import load, load_codec
from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.data.examples import dataset
from ptune.engine.decoder.engine import Engine
from ptune.errors import DataError, PtuneError, RecipeError
from ptune.evaluation.evaluate import evaluate
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.tasks.chat.recipe_codec import codec_for
from ptune.tasks.on_policy_distillation.objective import OnPolicyObjective, Sampled
from ptune.tasks.on_policy_distillation.sampler import before_last_answer, on_policy
from ptune.tasks.on_policy_distillation.teacher import judging
from ptune.tasks.own_answers.certificate import Certificate
from ptune.training.callbacks import StepInfo
from ptune.training.journal.metrics_log import read
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.packing import Share
from ptune.training.rows.segments import packing

from .conftest import Make

CPU = torch.device("cpu")
TIMED = {"seconds", "seconds_sampling", "tokens_per_s"}


def steps_of(run: Run) -> list[dict[str, Any]]:
    return [entry for entry in read(run.metrics_path) if "loss" in entry]


def pause_after_two(info: StepInfo) -> None:
    if info.step == 2:
        info.pause()


def examples_of(make: Make) -> Any:
    recipe = make()
    codec = codec_for(recipe.chat, load_codec(recipe.backbone))
    return dataset.load(recipe.data, recipe.chat, codec, recipe.train.seed).train


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_student_comes_nearer_to_its_teacher(make: Make, beta: float, tmp_path: Path) -> None:
    run = train(
        make(
            Lora(r=8, alpha=16), {"beta": beta, "lmbda": 1.0}, max_steps=24, batch_size=8, validate_every=100
        ),
        tmp_path / "run",
    )
    steps = steps_of(run)
    assert len(steps) == 24
    assert np.mean([step["loss"] for step in steps[-4:]]) < 0.9 * np.mean(
        [step["loss"] for step in steps[:4]]
    )
    assert max(step["drift"] for step in steps) < 1e-4
    assert all(step["on_policy"] == 1 and step["answer_tokens"] <= 8 for step in steps)
    data = json.loads(run.data_path.read_text())
    assert data["teacher"]["model"].endswith("teacher")
    assert evaluate(run)["before"]["targets"] > 0


def test_lmbda_is_the_share_of_steps_that_are_on_policy(make: Make, tmp_path: Path) -> None:
    steps = steps_of(train(make(task={"lmbda": 0.5}, max_steps=10), tmp_path / "run"))
    own = [step for step in steps if step["on_policy"]]
    assert 2 <= len(own) <= 8
    assert all(("drift" in step) == bool(step["on_policy"]) for step in steps)
    drawn = [on_policy(0, step, 0.3) for step in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.03)
    assert not any(on_policy(0, step, 0.0) for step in range(100))
    assert all(on_policy(0, step, 1.0) for step in range(100))


@pytest.mark.parametrize("lmbda", [0.0, 0.6])
def test_an_interrupted_run_ends_in_the_same_bytes(make: Make, lmbda: float, tmp_path: Path) -> None:
    recipe = make(task={"lmbda": lmbda}, max_steps=5, save_every=1)
    whole = train(recipe, tmp_path / "whole")
    stopped = train(recipe, tmp_path / "stopped", callbacks=[pause_after_two])
    assert stopped.record().status == "interrupted"
    train(recipe, tmp_path / "stopped", resume=True)
    name = "adapter_model.safetensors"
    assert (whole.adapter_path / name).read_bytes() == (stopped.adapter_path / name).read_bytes()
    journals = [
        [
            {name: value for name, value in step.items() if name not in TIMED}
            for step in read(run.metrics_path)
        ]
        for run in (whole, stopped)
    ]
    assert journals[0] == journals[1]


def test_without_answers_of_its_own_any_method_trains(kit: Path, make: Make, tmp_path: Path) -> None:
    recipe = make(Full(), {"lmbda": 0.0, "bundle": None}, max_steps=12, lr=3e-3)
    run = train(recipe, tmp_path / "run")
    steps = steps_of(run)
    assert np.mean([step["loss"] for step in steps[-3:]]) < np.mean([step["loss"] for step in steps[:3]])
    assert not (run.folder / "rollout").exists()
    assert not any("on_policy" in step for step in steps)


def test_a_drift_ends_the_run_before_anything_is_learnt_from_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, steps = Engine.put, list[int]()

    def off(self: Engine, name: str, config: Any, tensors: Any) -> int:
        """From the second step on the engine gets other weights than those that are trained."""
        steps.append(1)
        factor = 1.5 if len(steps) > 1 else 1
        return put(self, name, config, {key: value * factor for key, value in tensors.items()})

    monkeypatch.setattr(Engine, "put", off)
    with pytest.raises(PtuneError, match=r"a sampled token's log-probability is .* off.*drift_limit 0.001"):
        train(make(task={"lmbda": 1.0}, max_steps=4, validate_every=100), tmp_path / "run")
    (entry,) = steps_of(Run(tmp_path / "run"))
    assert entry["step"] == 1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("plain", [True, False], ids=["in the head", "of logits"])
def test_the_loss_is_the_divergence_of_both_models_by_transformers(
    kit: Path, make: Make, packed: bool, plain: bool
) -> None:
    examples = list(examples_of(make)[:5])
    student = load(make().backbone).model.train()
    teacher = AutoModelForCausalLM.from_pretrained(kit / "teacher", dtype=torch.float32).eval()
    wanted, beta = 0.0, 0.3
    for one in examples:
        at = [n - 1 for n, flag in enumerate(one.targets) if flag and n]
        q, p = (
            model(torch.tensor([one.ids])).logits[0][at].double().softmax(1) for model in (student, teacher)
        )
        mixed = (beta * p + (1 - beta) * q).log()
        parts = (F.kl_div(mixed, side, reduction="sum") for side in (p, q))
        wanted += float(sum(w * part for w, part in zip((beta, 1 - beta), parts, strict=True)))
    with packing(student) as can:
        plain_ = NextTokenObjective(can and packed, 4096, CPU, plain_head(student) if plain else None)
        with judging(teacher, plain_, beta, fast=True) as (judge, next_token):
            objective = OnPolicyObjective(next_token, judge, Certificate(), None)
            scores = [objective.score(student, row) for row in objective.batches(examples)]
    assert len(scores) == (1 if packed else 5)
    assert float(sum(score.loss.detach() for score in scores)) == pytest.approx(wanted, rel=1e-5)
    assert sum(score.targets for score in scores) == sum(map(objective.targets, examples))


def test_a_process_without_examples_has_a_backward_pass(kit: Path, make: Make) -> None:
    student, teacher = (
        load(make(backbone={"model": str(kit / name)}).backbone).model for name in ("student", "teacher")
    )
    student.train().requires_grad_(True)
    with judging(teacher, NextTokenObjective(False, 4096, CPU, plain_head(student)), 0.5, fast=True) as (
        judge,
        own,
    ):
        objective = OnPolicyObjective(own, judge, Certificate(), None)
        (idle,) = objective.batches(examples_of(make)[:1], Share(1, 2))
        score = objective.score(student, idle)
        score.loss.backward()
    assert (float(score.loss.detach()), score.targets) == (0.0, 0)


def test_the_question_is_what_stands_before_the_last_answer(make: Make) -> None:
    recipe = make()
    codec = codec_for(recipe.chat, load_codec(recipe.backbone))
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ]
    example = codec.encode_example(messages)
    assert before_last_answer(example) == tuple(codec.encode_prompt(messages[:3]))
    answered = Sampled((1, 2, 3), (False, True, True), (-0.5, -0.25))
    assert before_last_answer(answered) == (1,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"teacher": ""}}, "task.teacher is empty"),
        ({"method": Full()}, "method Full: on-policy distillation trains an adapter"),
        ({"method": Lora(r=4, dropout=0.1)}, "method.dropout 0.1: with dropout"),
        ({"ema": 0.9}, "train.ema"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    make: Make, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as refusal:
        train(make(**changes), tmp_path / "run")
    assert said in str(refusal.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_teacher_of_other_tokens_is_refused(make: Make, tmp_path: Path) -> None:
    other = tiny_models.build(tmp_path / "other", "llama", vocab_size=tiny_models.VOCAB + 1)
    grown = copy.deepcopy(tiny_models.tokenizer())
    grown.add_tokens(["<mine>"])
    grown.save_pretrained(other)
    with pytest.raises(RecipeError, match=r"task.teacher .* has another tokenizer than"):
        train(make(task={"teacher": str(other)}), tmp_path / "run")
    with pytest.raises(ValueError, match="label_smoothing is not for distillation"):
        OnPolicyDistillation(label_smoothing=0.1)


def test_a_run_goes_on_with_the_teacher_that_it_began_with(make: Make, tmp_path: Path) -> None:
    teacher = tiny_models.build(tmp_path / "teacher", "llama", seed=3)
    recipe = make(task={"teacher": str(teacher)}, save_every=1)
    train(recipe, tmp_path / "run", callbacks=[pause_after_two])
    tiny_models.build(teacher, "llama", seed=4)
    with pytest.raises(DataError, match=r"task.teacher .* has changed since"):
        train(recipe, tmp_path / "run", resume=True)
