"""Online preferences: which answers make a pair, and a loss and gradient that are offline DPO's of the same pairs."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from support import tiny_models
from support.trl import of_trl
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptune.config.preference import Preference
from ptune.config.reinforcement import Reinforcement
from ptune.data.shapes.preferences import Pair
from ptune.tasks.own_answers.answer import Answer
from ptune.tasks.preference.objective import PreferenceObjective
from ptune.tasks.preference.reference import log_probabilities
from ptune.tasks.reinforcement.pairs import FIGURES, PairObjective
from ptune.tasks.reinforcement.rollout import Rollout, extremes, rollout_of
from ptune.tasks.reinforcement.seen import Seen
from ptune.training.layers.adapter_off import without_adapter
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.segments import packing

CPU = torch.device("cpu")
LONGEST, BETA = 9, 0.3
REWARDS = [
    [1.0, 0.0, 0.5],
    [0.5, 0.5, 0.5],
    [-1.0, 2.0, -3.0],
    [0.25, 0.25, 0.0],
]  # the second teaches nothing
BEST_AND_WORST = {0: (0, 1), 2: (1, 2), 3: (0, 2)}


def task_of(loss: Any = "online_dpo", **fields: Any) -> Reinforcement:
    return Reinforcement(**{"loss": loss, "answer_tokens": LONGEST, "group_size": 3, "beta": BETA, **fields})


def rollouts(task: Reinforcement, seed: int = 2) -> list[Rollout]:
    """A group of 3 answers of 1 to 9 tokens for each of REWARDS; the engine's log-probabilities are 0."""
    numbers = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(numbers.randrange(3, 250) for _ in range(numbers.randint(least, most)))

    made = []
    for rewards in REWARDS:
        ids = [tokens(1, LONGEST) for _ in rewards]
        answers = [Answer(one, (0.0,) * len(one), finished=True) for one in ids]
        made.append(rollout_of(task, tokens(3, 20), answers, rewards))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, and adapter/, a LoRA that changes what it answers."""
    folder = tmp_path_factory.mktemp("pairs")
    tiny_models.build(folder / "model", "gpt2")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    get_peft_model(base_of(folder), config).double().save_pretrained(folder / "adapter")
    return folder


def base_of(folder: Path) -> PreTrainedModel:
    path = folder / "model"
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager").eval()


@pytest.fixture
def model(folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(base_of(folder), folder / "adapter", is_trainable=True).eval()


def trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def learnt(task: Reinforcement, model: PeftModel, most: int = 1000) -> tuple[float, dict[str, Any], Seen]:
    """Loss and gradient of a step on `rollouts`, and what was seen in it."""
    seen, groups = Seen(figures=FIGURES), rollouts(task)
    model.zero_grad(set_to_none=True)
    with packing(model.get_base_model()) as packed:
        assert packed
        next_token = NextTokenObjective(packed, most, CPU, plain_head(model.get_base_model()))
        objective = PairObjective(task, next_token, model.get_base_model(), seen)
        wanted = sum(map(objective.targets, groups))
        assert wanted == len(BEST_AND_WORST)
        loss = 0.0
        for row in objective.batches(groups):
            score = objective.score(model, row)
            (score.loss / wanted).backward()
            loss += float(score.loss) / wanted
    return loss, {name: one.grad for name, one in trained(model).items()}, seen


def offline(task: Reinforcement) -> list[Pair]:
    """The same pairs, as the task Preference reads them."""
    groups = rollouts(task)
    return [
        Pair(groups[at].sides[best], groups[at].sides[worst], "train", number)
        for number, (at, (best, worst)) in enumerate(BEST_AND_WORST.items())
    ]


def same(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    assert list(mine) == list(theirs)
    assert len(mine) > 3
    assert all(float(one.norm()) > 0 for one in theirs.values())
    return all(
        float((mine[name] - theirs[name]).norm()) <= 1e-9 * (1 + float(theirs[name].norm())) for name in mine
    )


@pytest.mark.parametrize("most", [30, 1000])
@pytest.mark.parametrize(("loss", "name"), [("online_dpo", "dpo"), ("online_ipo", "ipo")])
def test_loss_and_gradient_are_those_of_the_task_preference(
    loss: str, name: Any, most: int, model: PeftModel
) -> None:
    task = task_of(loss)
    found, gradient, _ = learnt(task, model, most)
    pairs, base = offline(task), model.get_base_model()
    model.zero_grad(set_to_none=True)
    with packing(base) as packed:
        next_token = NextTokenObjective(packed, 1000, CPU, plain_head(base))
        objective = PreferenceObjective(Preference(loss=name, beta=BETA), next_token)
        with without_adapter(base):
            known = {"train": log_probabilities("reference", objective, base, pairs)}
        objective = replace(objective, reference=known)
        (row,) = objective.batches(pairs)
        score = objective.score(model, row)
        (score.loss / len(pairs)).backward()
    assert found == pytest.approx(float(score.loss) / len(pairs), abs=1e-9)
    assert same(gradient, {name: one.grad for name, one in trained(model).items()})


def test_loss_gradient_and_figures_are_those_of_the_paper(model: PeftModel) -> None:
    """By transformers' and PEFT's own forward passes, of each answer alone."""
    task = task_of()
    found, gradient, seen = learnt(task, model)
    model.zero_grad(set_to_none=True)

    def log_p(example: Any) -> torch.Tensor:
        ids = torch.tensor([example.ids])
        each = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return each[torch.tensor(example.targets[1:])].sum()

    gained = []
    for pair in offline(task):
        better, worse = map(log_p, pair.sides)
        with torch.no_grad(), model.disable_adapter():
            better_before, worse_before = map(log_p, pair.sides)
        gained.append((better - better_before) - (worse - worse_before))
    model.set_adapter("default")
    loss = torch.stack([-F.logsigmoid(BETA * one) for one in gained]).mean()
    loss.backward()
    assert found == pytest.approx(float(loss), abs=1e-9)
    assert same(gradient, {name: one.grad for name, one in trained(model).items()})
    values = [float(one) for one in gained]
    assert len({value > 0 for value in values}) == 2  # or the accuracy would tell little
    assert seen.means(Accelerator(cpu=True)) == {
        "margin": pytest.approx(BETA * np.mean(values), abs=1e-9),
        "accuracy": pytest.approx(np.mean([value > 0 for value in values])),
    }


OF_TRL = """
import json, sys
from types import SimpleNamespace
from unittest.mock import MagicMock
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl.trainer.dpo_trainer import DPOTrainer

asked = json.load(sys.stdin)
base = AutoModelForCausalLM.from_pretrained(asked["folder"] + "/model", dtype=torch.float64, attn_implementation="eager")
model = PeftModel.from_pretrained(base, asked["folder"] + "/adapter", is_trainable=True).eval()
sides = [side for side, _ in asked["chosen"] + asked["rejected"]]
longest = max(map(len, sides))
ids = torch.zeros(len(sides), longest, dtype=torch.long)
attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
for row, (side, prompt) in enumerate(asked["chosen"] + asked["rejected"]):
    ids[row, :len(side)] = torch.tensor(side)
    attention[row, :len(side)] = 1
    completion[row, prompt:len(side)] = 1

def forward(input_ids, attention_mask, labels, **_):
    log_p = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1].log_softmax(-1)
    wanted = labels[:, 1:]
    each = log_p.gather(2, wanted.clamp(min=0)[..., None])[..., 0] * (wanted >= 0)
    return SimpleNamespace(log_probs=each, entropy=each, mean_logits=each, is_top1=each < 0)

with torch.no_grad(), model.disable_adapter():
    labels = ids.masked_fill(completion == 0, -100)
    before = forward(ids, attention, labels).log_probs.sum(1).chunk(2)
model.set_adapter("default")
me = MagicMock(
    aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[asked["loss"]],
    loss_weights=[1.0], beta=asked["beta"], use_weighting=False, label_smoothing=0.0,
)
me.accelerator.device, me.accelerator.gather = "cpu", lambda value: value
me.accelerator.gather_for_metrics, me._total_train_tokens, me._tp_size = me.accelerator.gather, 0, 1
inputs = {
    "input_ids": ids, "attention_mask": attention, "completion_mask": completion,
    "ref_chosen_logps": before[0], "ref_rejected_logps": before[1],
}
loss = DPOTrainer._compute_loss(me, forward, inputs, False)
loss.backward()
gradient = {name: one.grad.tolist() for name, one in model.named_parameters() if one.requires_grad}
print(json.dumps([loss.item(), gradient]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "name"), [("online_dpo", "sigmoid"), ("online_ipo", "ipo")])
def test_loss_and_gradient_are_those_of_trl(
    loss: str, name: str, model: PeftModel, folder: Path, tmp_path: Path
) -> None:
    task = task_of(loss)
    found, gradient, _ = learnt(task, model)
    pairs = offline(task)
    sides = {
        side: [(of.ids, of.targets.index(True)) for of in (getattr(pair, side) for pair in pairs)]
        for side in ("chosen", "rejected")
    }
    asked = {"folder": str(folder), "loss": name, "beta": BETA, **sides}
    theirs, theirs_gradient = of_trl(OF_TRL, asked, tmp_path)
    assert found == pytest.approx(theirs, abs=1e-9)
    wide = {key: torch.tensor(one, dtype=torch.float64) for key, one in theirs_gradient.items()}
    assert same(gradient, wide)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=9))
def test_the_best_answer_that_counts_stands_against_the_worst(group: list[tuple[int, bool]]) -> None:
    rewards, counted = (np.array(side) for side in zip(*group, strict=True))
    found = extremes(rewards.astype(float), counted)
    kept = [reward for reward, counts in group if counts]
    if len(set(kept)) < 2:
        assert not found.any()
        return
    assert sorted(found) == [-1.0, *[0.0] * (len(group) - 2), 1.0]
    assert rewards[found == 1] == max(kept)
    assert rewards[found == -1] == min(kept)
    assert counted[found != 0].all()


@pytest.mark.parametrize(("cut", "pair"), [("count", (0, 3)), ("leave_out", (1, 2))])
def test_cut_answers_may_be_left_out_of_pairs(cut: str, pair: tuple[int, int]) -> None:
    answers = [Answer((at,), (0.0,), finished=at in (1, 2)) for at in range(4)]
    group = rollout_of(task_of(cut_answers=cut), (7, 8), answers, [9.0, 2.0, 1.0, 0.0])
    assert group.pair.answers == tuple(answers[at] for at in pair)
    assert len(group.answers) == 4
    one_left = rollout_of(task_of(cut_answers="leave_out"), (7, 8), answers[1::2], [2.0, 1.0])
    assert one_left.alike
    assert len(one_left.pair.answers) == 2  # which the certificate is of


def test_a_step_without_any_pair_has_no_loss_and_a_certificate(model: PeftModel) -> None:
    task, seen = task_of(), Seen(figures=FIGURES)
    base = model.get_base_model()
    objective = PairObjective(task, NextTokenObjective(False, 1000, CPU), base, seen)
    (row,) = objective.batches([rollouts(task)[1]])
    score = objective.score(model, row)
    score.loss.backward()
    assert (float(score.loss), score.targets) == (0.0, 0)
    assert all(one.grad is not None and not one.grad.any() for one in trained(model).values())
    assert seen.tokens == sum(len(answer.ids) for answer in rollouts(task)[1].answers[:2])
    assert seen.drift > 0.1  # from the zeros that stand for the engine's
    assert seen.means(Accelerator(cpu=True)) == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss": "online_dpo", "kl": 0.1}, "kl is not for online_dpo, which compares with the model before"),
        ({"loss": "online_ipo", "kl": 0.1}, "leave it out, and set beta"),
        ({"loss": "grpo", "beta": 0.1}, "beta is for online_dpo, online_ipo: the divergence of grpo"),
        ({"loss": "online_dpo", "label_smoothing": 0.1}, "label_smoothing is not for reinforcement"),
        ({"loss": "online_dpo", "beta": 0.0}, "beta"),
        ({"loss": "online_dpo", "group_size": 1}, "group_size"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Reinforcement(**fields)
