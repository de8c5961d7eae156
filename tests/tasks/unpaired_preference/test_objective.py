"""The objective's loss and gradient are those of answers computed one by one with transformers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from support import tiny_models
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptune.codecs.chat import Example
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examples.judged import JudgedExample
from ptune.tasks.unpaired_preference.objective import UnpairedObjective
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.packing import Share
from ptune.training.rows.segments import packing

CPU = torch.device("cpu")


def answers_of(seed: int, count: int) -> list[JudgedExample]:
    """Answers of 1 to 12 tokens to prompts of 3 to 30, each beside the next one's."""
    numbers = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(numbers.randrange(3, 250) for _ in range(numbers.randint(least, most)))

    texts = [(tokens(3, 30), tokens(1, 12)) for _ in range(count)]

    def example(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Example:
        return Example(prompt + answer, (False,) * len(prompt) + (True,) * len(answer))

    return [
        JudgedExample(
            example(prompt, answer),
            example(prompt, texts[(number + 1) % count][1]),
            number % 3 != 0,
            "train",
            number,
        )
        for number, (prompt, answer) in enumerate(texts)
    ]


def alone(model: PreTrainedModel, example: Example) -> torch.Tensor:
    """The log-probability of an answer, by transformers' own forward pass of this example."""
    log_p = model(torch.tensor([example.ids]), use_cache=False).logits[0].log_softmax(-1)
    at = [place for place, target in enumerate(example.targets) if target and place > 0]
    return sum((log_p[place - 1, example.ids[place]] for place in at), torch.zeros((), dtype=log_p.dtype))


@pytest.mark.parametrize("loss", ["kto", "apo_zero"])
@pytest.mark.parametrize("sign", [1, -1])
def test_loss_and_gradient_are_those_of_answers_alone(
    loss: Literal["kto", "apo_zero"], sign: int, tmp_path: Path
) -> None:
    tiny_models.build(tmp_path, "gpt2")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager")
    model.train().requires_grad_(True)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    answers = answers_of(seed=3, count=7)
    task = UnpairedPreference(loss=loss, beta=0.4, desirable_weight=1.3, undesirable_weight=0.7)
    before = torch.linspace(-2, 1, 7, dtype=torch.float64)
    with torch.no_grad():
        own, other = (
            torch.stack([alone(model, getattr(answer, name)) for answer in answers])
            for name in ("own", "mismatched")
        )
    # sign: whether the model has moved to or away from answers to other prompts
    reference = {"train": torch.stack([own + before, other - sign * 0.5], 1).numpy()}

    z = max(0.0, sign * 0.5) if loss == "kto" else 0.0
    wanted = torch.zeros((), dtype=torch.float64)
    for answer in answers:
        x = alone(model, answer.own) - float(reference["train"][answer.number, 0])
        value = torch.sigmoid(0.4 * (x - z)) if answer.desirable else torch.sigmoid(0.4 * (z - x))
        wanted = wanted + (1.3 if answer.desirable else 0.7) * (1 - value)
    wanted.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)

    with packing(model) as packed:
        assert packed
        objective = UnpairedObjective(task, NextTokenObjective(packed, 60, CPU, plain_head(model)), reference)
        batches = list(objective.batches(answers))
        assert 1 < len(batches) < len(answers)
        total = 0.0
        for batch in batches:
            score = objective.score(model, batch)
            score.loss.backward()
            total += float(score.loss.detach())
            assert model.training
    assert sum(len(batch.answers) for batch in batches) == len(answers)
    assert total == pytest.approx(float(wanted), abs=1e-9)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        if gradient is not None:
            assert parameter.grad is not None
            assert (parameter.grad - gradient).norm() <= 1e-9 * (1 + gradient.norm())


@pytest.mark.parametrize("packed", [False, True])
def test_every_answer_is_in_one_row_of_one_process(packed: bool) -> None:
    answers = answers_of(seed=1, count=7)
    task = UnpairedPreference()
    objective = UnpairedObjective(task, NextTokenObjective(packed, 60, CPU), {"train": np.zeros((7, 2))})
    rows = [list(objective.batches(answers, Share(one, 3))) for one in range(3)]
    assert len({len(own) for own in rows}) == 1
    found = [answer.number for own in rows for row in own for answer in row.answers]
    assert sorted(found) == list(range(7))
    assert len({id(row.step) for row in rows[0]}) == 1
