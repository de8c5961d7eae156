"""Several updates from the same answers: clipped ratios, to the model that gave them, by independent arithmetic."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support import tiny_models
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptune.config.reinforcement import LOSSES, Reinforcement
from ptune.errors import FormatError
from ptune.tasks.own_answers.answer import Answer
from ptune.tasks.reinforcement.kept import check_kept, kept, rollouts_again
from ptune.tasks.reinforcement.losses import answer_losses
from ptune.tasks.reinforcement.objective import RATIO, ReinforcementObjective
from ptune.tasks.reinforcement.rollout import Rollout, rollout_of
from ptune.tasks.reinforcement.seen import Seen
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.segments import packing

from .test_losses import LONGEST, log_p_of, rollouts

CPU = torch.device("cpu")
LOW, HIGH = 0.8, 1.3  # of clip 0.2, clip_high 0.3
Gradient = list[torch.Tensor]


def task_of(loss: str = "grpo", **fields: Any) -> Reinforcement:
    usual: dict[str, Any] = {"updates": 3, "clip": 0.2, "clip_high": 0.3, "answer_tokens": LONGEST}
    return Reinforcement(**{"loss": loss, "group_size": 4, **usual, **fields})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("policy")
    tiny_models.build(folder, "gpt2")
    made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return made.eval().requires_grad_(True)


def answered_before(task: Reinforcement, model: PreTrainedModel) -> list[Rollout]:
    """Groups whose answers were given by a model of somewhat other log-probabilities."""
    dice = random.Random(1)
    made: list[Rollout] = []
    for group in rollouts(task):
        answers = []
        for answer, of in zip(group.answers, log_p_of(model, group), strict=True):
            at_all = dice.uniform(-0.4, 0.4)  # or means over an answer would hardly differ
            before = tuple(one + at_all + dice.uniform(-0.3, 0.3) for one in of.tolist())
            answers.append(replace(answer, log_probabilities=before))
        first = 4 * len(made)
        made.append(rollout_of(task, group.prompt, answers, group.rewards, first=first, again=True))
    return made


def gradient_of(model: PreTrainedModel) -> Gradient:
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return found


def as_if(ratio: torch.Tensor, advantage: float) -> tuple[torch.Tensor, bool]:
    """What an answer or a token brings, and whether it is clipped: then it is a number that does not follow the weights."""
    if advantage > 0 and float(ratio) > HIGH:
        return ratio.new_tensor(HIGH * advantage), True
    if advantage < 0 and float(ratio) < LOW:
        return ratio.new_tensor(LOW * advantage), True
    return ratio * advantage, False


def wanted(
    task: Reinforcement, model: PreTrainedModel, groups: list[Rollout]
) -> tuple[float, list[float], list[bool], Gradient]:
    """Loss, ratios, which are clipped, and the gradient, by transformers' own forward pass of each answer."""
    total, ratios, clipped = torch.zeros((), dtype=torch.float64), [], []
    tokens = sum(group.tokens for group in groups)
    for group in groups:
        for at, log_p in enumerate(log_p_of(model, group)):
            more = log_p - torch.tensor(group.answers[at].log_probabilities, dtype=torch.float64)
            parts = {"gspo": [more.mean()], "rloo": [more.sum()]}.get(task.loss, list(more))
            brought = [as_if(torch.exp(part), group.advantages[at]) for part in parts]
            if not group.counted[at]:
                continue
            ratios += [float(torch.exp(part)) for part in parts]
            clipped += [was for _, was in brought]
            divided = {"grpo": len(more) * 12, "dapo": tokens, "dr_grpo": LONGEST * 12}.get(task.loss, 12)
            total = total - torch.stack([one for one, _ in brought]).sum() / divided
    total.backward()
    return float(total), ratios, clipped, gradient_of(model)


@pytest.mark.parametrize("most_tokens", [40, 1000])
@pytest.mark.parametrize("cut", ["count", "leave_out"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_gradient_and_figures_are_those_of_the_clipped_ratio(
    loss: str, cut: str, most_tokens: int, model: PreTrainedModel
) -> None:
    task = task_of(loss, cut_answers=cut)
    groups = answered_before(task, model)
    assert (sum(map(sum, (group.counted for group in groups))) < 12) == (cut == "leave_out")
    theirs, ratios, clipped, their_gradient = wanted(task, model, groups)
    assert 0 < sum(clipped) < len(clipped)
    seen, loss_of_all = Seen(figures=RATIO), 0.0
    with packing(model) as packed:
        own = NextTokenObjective(packed, most_tokens, CPU, plain_head(model))
        objective = ReinforcementObjective(task, own, model, seen)
        divided = sum(map(objective.targets, groups))
        for row in objective.batches(groups):
            of_row = objective.score(model, row).loss / divided
            of_row.backward()
            loss_of_all += float(of_row)
    assert loss_of_all == pytest.approx(theirs, abs=1e-9)
    for mine, other in zip(gradient_of(model), their_gradient, strict=True):
        assert (mine - other).norm() <= 1e-9 * (1 + other.norm())
    assert seen.means(Accelerator(cpu=True)) == {
        "ratio": pytest.approx(sum(ratios) / len(ratios), abs=1e-9),
        "clipped": pytest.approx(sum(clipped) / len(clipped)),
    }
    assert seen.tokens == 0  # the certificate is of the first update alone


@pytest.mark.parametrize("loss", LOSSES)
def test_where_nothing_has_changed_it_is_the_first_update(loss: str) -> None:
    task, dice = task_of(loss), random.Random(0)
    log_p, above = [-dice.random() for _ in range(12)], torch.tensor([0.5, -1.0, 1.5, 0.0])
    of = torch.tensor([0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 3, 3])
    found = []
    for before in (None, torch.tensor(log_p)):
        own = torch.tensor(log_p, requires_grad=True)
        losses = answer_losses(task, own, of, above, None, before)
        losses.sum().backward()
        found.append((losses.tolist(), own.grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_of_one_update_gspos_gradient_is_that_of_grpo() -> None:
    of, above = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0.5, -1.0, 1.5], dtype=torch.float64)
    gradients = []
    for loss in ("grpo", "gspo"):
        log_p = torch.linspace(-3, -0.1, 6, dtype=torch.float64).requires_grad_()
        answer_losses(Reinforcement(loss=loss), log_p, of, above, None).sum().backward()
        assert log_p.grad is not None
        gradients.append(log_p.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=0, atol=1e-15)


ANSWERS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 2**31), st.floats(-50, 0, width=32)), min_size=1, max_size=5),
        st.booleans(),
        st.floats(-10, 10),
    ),
    min_size=2,
    max_size=2,
)


@given(st.lists(ANSWERS, min_size=1, max_size=3))
def test_kept_answers_are_the_same_with_the_log_probabilities_of_the_first_update(groups: Any) -> None:
    task = Reinforcement(group_size=2, updates=2, cut_answers="leave_out")
    made: list[Rollout] = []
    log_p: dict[int, torch.Tensor] = {}
    for group in groups:
        answers = [Answer(tuple(one for one, _ in of), (0.5,) * len(of), done) for of, done, _ in group]
        first = 2 * len(made)
        made.append(rollout_of(task, (7, first), answers, [worth for *_, worth in group], first=first))
        for at, (of, _, _) in enumerate(group):
            log_p[first + at] = torch.tensor([one for _, one in of], dtype=torch.float32)
    tensors = kept(made, log_p)
    check_kept(tensors)
    again = rollouts_again(task, [one.prompt for one in made], tensors)
    for mine, first_time in zip(again, made, strict=True):
        assert mine.again
        assert not first_time.again
        for answer, number in zip(mine.answers, mine.numbers, strict=True):
            assert list(answer.log_probabilities) == log_p[number].tolist()
        engines = tuple(
            replace(answer, log_probabilities=(0.5,) * len(answer.ids)) for answer in mine.answers
        )
        assert replace(mine, answers=engines, again=False) == first_time


def test_a_checkpoint_without_its_answers_is_not_gone_on_from() -> None:
    with pytest.raises(FormatError, match="no answers"):
        check_kept({"ids": torch.ones(3)})


@pytest.mark.parametrize(
    ("fields", "low", "high"),
    [
        ({"loss": "grpo"}, 0.2, 0.2),
        ({"loss": "dr_grpo"}, 0.2, 0.2),
        ({"loss": "rloo"}, 0.2, 0.2),
        ({"loss": "dapo"}, 0.2, 0.28),  # section 4.1 of its paper
        ({"loss": "gspo"}, 3e-4, 4e-4),  # section 5.1 of its paper
        ({"loss": "gspo", "clip": 0.1}, 0.1, 0.1),
        ({"loss": "dapo", "clip": 0.1, "clip_high": 0.3}, 0.1, 0.3),
        ({"loss": "dapo", "clip_high": 5.0}, 0.2, 5.0),
    ],
)
def test_the_range_is_the_recipes_or_the_papers(fields: dict[str, Any], low: float, high: float) -> None:
    assert Reinforcement(updates=2, **fields).clip_range == pytest.approx((1 - low, 1 + high))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss": "online_dpo", "updates": 2}, "updates 2 is not for online_dpo, whose loss has no ratio"),
        ({"loss": "online_ipo", "updates": 3}, "updates 3 is not for online_ipo"),
        ({"clip": 0.2}, "clip is for updates of 2 or more"),
        ({"clip_high": 0.28, "loss": "dapo"}, "clip_high is for updates of 2 or more"),
        ({"updates": 0}, "greater than or equal to 1"),
        ({"updates": 2, "clip": 1.5}, "less than or equal to 1"),
        ({"updates": 2, "clip_high": 0}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Reinforcement(**fields)
