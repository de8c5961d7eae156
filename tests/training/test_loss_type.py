"""`task.loss_type dft`: the loss and gradient of the paper's formula (as TRL has it), in training alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import tiny_models

from ptune.codecs.chat import Example
from ptune.config.chat import Chat
from ptune.config.distillation import Distillation
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.segments import packing

CPU = torch.device("cpu")
TEXTS = ([5, 9, 30, 44, 6], [7, 200, 3, 18, 90, 91, 2], [12, 13])
TARGETS = (2, 5, 1)  # of the last tokens of each


def examples() -> list[Example]:
    return [
        Example(tuple(ids), tuple(place >= len(ids) - count for place in range(len(ids))))
        for ids, count in zip(TEXTS, TARGETS, strict=True)
    ]


def by_hand(model: torch.nn.Module) -> torch.Tensor:
    """-p log p of each target, each text by itself."""
    total = torch.zeros(())
    for ids, count in zip(TEXTS, TARGETS, strict=True):
        logits = model(torch.tensor([ids])).logits[0, -count - 1 : -1]
        nll = F.cross_entropy(logits, torch.tensor(ids[-count:]), reduction="none")
        total = total + (nll * torch.exp(-nll).detach()).sum()
    return total


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # with its loss in the head, and with whole logits
@pytest.mark.parametrize("trains_head", [False, True])
def test_loss_and_gradient_are_those_of_the_formula(family: str, trains_head: bool) -> None:
    model = tiny_models.model(family).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name or (trains_head and "lm_head" in name))
    wanted = by_hand(model)
    wanted.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    with packing(model, fast=True) as packed:
        objective = NextTokenObjective(packed, 64, CPU, plain_head(model), by_probability=True)
        scores = [objective.score(model, batch) for batch in objective.batches(examples())]
        sum(score.loss for score in scores).backward()
    assert sum(score.targets for score in scores) == sum(TARGETS)
    assert float(sum(score.loss.detach() for score in scores)) == pytest.approx(float(wanted), rel=1e-5)
    for name, wanted_gradient in gradients.items():
        found = model.get_parameter(name).grad
        assert found is not None
        assert (found - wanted_gradient).abs().max() <= 1e-4 * wanted_gradient.abs().max() + 1e-7, name


def test_validation_has_the_usual_loss() -> None:
    model = tiny_models.model("llama").eval()
    usual, dft = (
        NextTokenObjective(False, 64, CPU, plain_head(model), by_probability=flag) for flag in (False, True)
    )
    with torch.no_grad():
        for batch in usual.batches(examples()):
            assert torch.equal(usual.score(model, batch).loss, dft.score(model, batch).loss)


def test_it_is_refused_where_targets_are_not_single_tokens() -> None:
    with pytest.raises(ValueError, match="loss_type dft is for task Chat"):
        Distillation(loss_type="dft")
    with pytest.raises(ValueError, match="label_smoothing is not for loss_type dft"):
        Chat(loss_type="dft", label_smoothing=0.1)
