"""The divergence of on-policy distillation is TRL's, its gradient autograd's, however it is cut into chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.trl import of_trl
from torch import Tensor

from ptune.training.loss import chunked as chunked_loss
from ptune.training.loss.generalized_jsd import WholeTeacher
from ptune.training.loss.judged import judged_loss, judged_loss_of

CPU = torch.device("cpu")
VOCAB = 61
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)

OF_TRL = """
import json, sys
import torch
from trl.experimental.gkd.gkd_trainer import GKDTrainer

asked = json.load(sys.stdin)
wide = lambda numbers: torch.tensor(numbers, dtype=torch.float64)[None]
found = {}
for beta in asked["betas"]:
    student = wide(asked["student"]).requires_grad_()
    labels = torch.tensor(asked["labels"])[None]
    loss = GKDTrainer.generalized_jsd_loss(student, wide(asked["teacher"]), labels, beta=beta, reduction="batchmean")
    loss.backward()
    found[str(beta)] = [loss.item(), student.grad[0].tolist()]
print(json.dumps(found))
"""


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(targets: int) -> Tensor:
    return torch.randint(0, VOCAB, (targets,), generator=torch.Generator().manual_seed(0))


def by_torch(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """The paper's definition (equation 1), by probabilities and PyTorch's kl_div, summed."""
    q, p = student.softmax(1), teacher.softmax(1)
    if beta == 0:
        return F.kl_div(q.log(), p, reduction="sum")
    if beta == 1:
        return F.kl_div(p.log(), q, reduction="sum")
    mixed = (beta * p + (1 - beta) * q).log()
    return beta * F.kl_div(mixed, p, reduction="sum") + (1 - beta) * F.kl_div(mixed, q, reduction="sum")


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_trl(tmp_path: Path) -> None:
    student, teacher, labels = 3 * drawn(1, 6, VOCAB), 3 * drawn(2, 6, VOCAB), labels_of(6)
    said = [-100, *labels[1:].tolist()]  # TRL leaves the first out
    asked = {"betas": BETAS, "student": student.tolist(), "teacher": teacher.tolist(), "labels": said}
    found = of_trl(OF_TRL, asked, tmp_path)
    for beta in BETAS:
        leaf = student[1:].clone().requires_grad_()
        loss, _ = judged_loss_of(leaf, labels[1:], WholeTeacher(teacher[1:], None, None, beta))
        (loss / 5).backward()
        assert leaf.grad is not None
        theirs = found[str(beta)]
        assert float(loss.detach()) / 5 == pytest.approx(theirs[0], abs=1e-9)
        assert np.abs(leaf.grad.numpy() - np.array(theirs[1])[1:]).max() < 1e-9


@pytest.mark.parametrize("beta", BETAS)
def test_in_the_head_it_is_the_papers_definition(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    states, weight, bias = (
        drawn(seed, *shape) for seed, shape in enumerate([(9, 16), (VOCAB, 16), (VOCAB,)])
    )
    its, head, shift = drawn(5, 9, 12), drawn(6, VOCAB, 12), drawn(7, VOCAB)
    leaves = [one.requires_grad_() for one in (states, weight, bias)]
    logits = F.linear(*leaves)
    wanted = by_torch(logits, F.linear(its, head, shift), beta)
    theirs = torch.autograd.grad(3 * wanted, leaves, retain_graph=True)
    for logits_in_a_chunk in (2**23, 14 * VOCAB):  # all at once, and two targets at a time
        monkeypatch.setattr(chunked_loss, "_CPU_LOGITS", logits_in_a_chunk)
        labels = labels_of(9)
        loss, log_p = judged_loss(states, weight, bias, labels, WholeTeacher(its, head, shift, beta), CPU)
        assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-9)
        own = logits.detach().log_softmax(1).gather(1, labels[:, None])[:, 0]
        torch.testing.assert_close(log_p, own, rtol=1e-9, atol=1e-9)
        for mine, its_own in zip(torch.autograd.grad(3 * loss, leaves), theirs, strict=True):
            torch.testing.assert_close(mine, its_own, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), beta=st.floats(0, 1), sharp=st.floats(0.1, 60))
def test_it_is_never_below_zero_and_0_where_both_agree(seed: int, beta: float, sharp: float) -> None:
    student, teacher, labels = sharp * drawn(seed, 3, VOCAB), sharp * drawn(seed + 1, 3, VOCAB), labels_of(3)
    apart, _ = judged_loss_of(student, labels, WholeTeacher(teacher, None, None, beta))
    alike, _ = judged_loss_of(student, labels, WholeTeacher(student.clone(), None, None, beta))
    assert float(apart) >= -1e-9
    assert float(alike) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("more", ["student", "teacher"])
def test_rows_that_one_of_both_lacks_are_left_out(beta: float, more: str) -> None:
    student, teacher, labels = drawn(1, 4, VOCAB), drawn(2, 4, VOCAB), labels_of(4) % 50
    cut = {"student": (student, teacher[:, :50]), "teacher": (student[:, :50], teacher)}[more]
    leaf = cut[0].clone().requires_grad_()
    loss, _ = judged_loss_of(leaf, labels, WholeTeacher(cut[1], None, None, beta))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(by_torch(student[:, :50], teacher[:, :50], beta)))
    assert leaf.grad is not None
    assert not leaf.grad[:, 50:].any()


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_a_token_that_a_teacher_rules_out_has_a_finite_loss(beta: float) -> None:
    student, teacher = drawn(1, 4, VOCAB), drawn(2, 4, VOCAB)
    teacher[:, :7] = -torch.inf
    leaf = student.clone().requires_grad_()
    loss, _ = judged_loss_of(leaf, labels_of(4), WholeTeacher(teacher, None, None, beta))
    loss.backward()
    assert leaf.grad is not None
    assert float(loss.detach()) > 0
    assert bool(leaf.grad.isfinite().all())
