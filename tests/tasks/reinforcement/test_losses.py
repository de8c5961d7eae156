"""The losses of sampled answers: equal to what their papers and TRL say, and the same however rows are cut."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_models
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptune.config.reinforcement import LOSSES, Reinforcement
from ptune.tasks.own_answers.answer import Answer
from ptune.tasks.reinforcement.losses import divergence
from ptune.tasks.reinforcement.objective import ReinforcementObjective
from ptune.tasks.reinforcement.rollout import Rollout, advantages, rollout_of
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.segments import packing

CPU = torch.device("cpu")
LONGEST = 12


def rollouts(task: Reinforcement, seed: int = 0, groups: int = 3) -> list[Rollout]:
    """Groups of 4 answers of 1 to 12 tokens with random rewards; the engine's log-probabilities are 0."""
    numbers = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(numbers.randrange(3, 250) for _ in range(numbers.randint(least, most)))

    made = []
    for _ in range(groups):
        ids = [tokens(1, LONGEST) for _ in range(4)]
        answers = [Answer(one, (0.0,) * len(one), len(one) < LONGEST) for one in ids]
        made.append(rollout_of(task, tokens(3, 20), answers, [numbers.random() for _ in ids]))
    return made


def log_p_of(model: PreTrainedModel, rollout: Rollout) -> list[torch.Tensor]:
    """Of each answer's tokens, by transformers' own forward pass of prompt and answer."""
    found = []
    for answer in rollout.answers:
        ids = torch.tensor([rollout.prompt + answer.ids])
        log_p = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        each = log_p.gather(1, ids[0, 1:, None])[:, 0]
        found.append(each[len(rollout.prompt) - 1 :])
    return found


def wanted(task: Reinforcement, log_p: list[torch.Tensor], rollout: Rollout) -> list[torch.Tensor]:
    """The surrogate whose gradient is the policy gradient, of each answer, before it is divided."""
    rewards = torch.tensor(rollout.rewards, dtype=torch.float64)
    others = [torch.cat([rewards[:at], rewards[at + 1 :]]).mean() for at in range(len(rewards))]
    standardised = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    surrogates = {
        "grpo": lambda a, p: -standardised[a] * p.mean(),
        "dapo": lambda a, p: -standardised[a] * p.sum(),
        "dr_grpo": lambda a, p: -(rewards[a] - rewards.mean()) * p.sum() / LONGEST,
        "rloo": lambda a, p: -(rewards[a] - others[a]) * p.sum(),
        "gspo": lambda a, p: -standardised[a] * p.mean(),
    }
    return [surrogates[task.loss](at, of) for at, of in enumerate(log_p)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("policy")
    tiny_models.build(folder, "gpt2")
    made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return made.eval().requires_grad_(True)


@pytest.mark.parametrize("most_tokens", [40, 1000])
@pytest.mark.parametrize("cut", ["count", "leave_out"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_paper(
    loss: Any, cut: Any, most_tokens: int, model: PreTrainedModel
) -> None:
    task = Reinforcement(loss=loss, answer_tokens=LONGEST, cut_answers=cut, group_size=4)
    groups = rollouts(task)
    model.zero_grad(set_to_none=True)
    losses, tokens, answers = [], 0, 0
    for group in groups:
        of = wanted(task, log_p_of(model, group), group)
        for answer, one in zip(group.answers, of, strict=True):
            kept = answer.finished or cut == "count"
            answers += 1
            tokens += len(answer.ids) * kept
            losses += [one] if kept else []
    divided = tokens if loss == "dapo" else answers
    (torch.stack(losses).sum() / divided).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    with packing(model) as packed:
        assert packed
        next_token = NextTokenObjective(packed, most_tokens, CPU, plain_head(model))
        objective = ReinforcementObjective(task, next_token, model)
        assert sum(map(objective.targets, groups)) == divided
        rows = list(objective.batches(groups))
        assert (len(rows) > 3) == (most_tokens == 40)
        for row in rows:
            (objective.score(model, row).loss / divided).backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(found) == len(gradients) > 10
    for mine, theirs in zip(found, gradients, strict=True):
        assert (mine - theirs).norm() <= 1e-9 * (1 + theirs.norm())


def test_drift_is_the_largest_difference_from_what_was_sampled(model: PreTrainedModel) -> None:
    task = Reinforcement(answer_tokens=LONGEST)
    (group,) = rollouts(task, groups=1)
    log_p = [of.detach() for of in log_p_of(model, group)]
    off = [of.clone() for of in log_p]
    off[2][0] += 0.25
    for sampled, drift in ((log_p, 0.0), (off, 0.25)):
        answers = tuple(
            Answer(answer.ids, tuple(of.tolist()), answer.finished)
            for answer, of in zip(group.answers, sampled, strict=True)
        )
        with packing(model) as packed:
            objective = ReinforcementObjective(
                task, NextTokenObjective(packed, 1000, CPU, plain_head(model)), model
            )
            (row,) = objective.batches([rollout_of(task, group.prompt, answers, group.rewards)])
            objective.score(model, row)
        assert objective.seen.drift == pytest.approx(drift, abs=1e-9)
        assert objective.seen.tokens == sum(map(len, log_p))


def test_a_drift_that_is_not_a_number_is_not_lost_among_others(model: PreTrainedModel) -> None:
    task = Reinforcement(answer_tokens=LONGEST)
    (group,) = rollouts(task, groups=1)
    objective = ReinforcementObjective(task, NextTokenObjective(False, 1000, CPU), model)
    for first in (0.0, float("nan"), 0.0):
        answers = [replace(one, log_probabilities=(first,) * len(one.ids)) for one in group.answers]
        (row,) = objective.batches([replace(group, answers=tuple(answers))])
        objective.score(model, row)
    assert np.isnan(objective.seen.drift)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9))
def test_advantages_add_up_to_nothing(rewards: list[float]) -> None:
    for baseline in ("standardised", "mean", "others"):
        found = advantages(baseline, np.array(rewards))
        assert abs(found.sum()) < 1e-6
        assert len(set(rewards)) > 1 or not found.any()
        order = np.argsort(rewards, kind="stable")
        assert (np.diff(found[order]) >= -1e-9).all()


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_the_divergence_is_not_negative_and_0_where_nothing_has_changed(
    log_p: float, reference: float
) -> None:
    found = float(divergence(torch.tensor(log_p), torch.tensor(reference)))
    assert found >= -1e-6
    assert float(divergence(torch.tensor(log_p), torch.tensor(log_p))) == 0
