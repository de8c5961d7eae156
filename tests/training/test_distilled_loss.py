"""The loss of distillation is PyTorch's KL divergence of the coarse distributions, and its gradient is autograd's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ptune.training.loss import chunked as chunked_loss
from ptune.training.loss.distilled import SoftTargets
from ptune.training.loss.judged import judged_loss, judged_loss_of

CPU = torch.device("cpu")
VOCAB = 61


def teacher_of(logits: Tensor, top: int, temperature: float = 1.0) -> SoftTargets:
    """What labels say of a teacher's logits."""
    known = (logits / temperature).log_softmax(1)
    best = known.topk(top, 1)
    others = torch.ones_like(known).scatter(1, best.indices, 0)
    return SoftTargets(best.indices, best.values, (known.exp() * others).sum(1).log(), temperature)


def distilled_loss(
    states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, teacher: SoftTargets, ratio: float
) -> Tensor:
    return judged_loss(states, weight, bias, labels, replace(teacher, ratio=ratio), CPU)[0]


def distilled_loss_of(logits: Tensor, labels: Tensor, teacher: SoftTargets, ratio: float) -> Tensor:
    return judged_loss_of(logits, labels, replace(teacher, ratio=ratio))[0]


def case(seed: int = 0, targets: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weights, bias, labels, and a teacher's logits, in float64."""
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    labels = torch.randint(0, VOCAB, (targets,), generator=random)
    return drawn(targets, 16), drawn(VOCAB, 16), drawn(VOCAB), labels, 2 * drawn(targets, VOCAB)


def coarse(log_p: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of the k tokens and of all others as one, [rows, k + 1], by probabilities alone."""
    p = log_p.exp()
    others = (p * torch.ones_like(p).scatter(1, tokens, 0)).sum(1, keepdim=True)
    return torch.cat([p.gather(1, tokens), others], 1).log()


def by_torch(
    logits: Tensor, labels: Tensor, teacher: Tensor, soft: SoftTargets, ratio: float, top: int
) -> Tensor:
    """The same loss by cross_entropy and kl_div."""
    ours, theirs = ((one / soft.temperature).log_softmax(1) for one in (logits, teacher))
    if top < VOCAB:
        ours, theirs = coarse(ours, soft.tokens), coarse(theirs, soft.tokens)
    divergence = F.kl_div(ours, theirs, reduction="sum", log_target=True)
    entropy = F.cross_entropy(logits, labels, reduction="sum")
    return (1 - ratio) * entropy + ratio * soft.temperature**2 * divergence


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("ratio", [1.0, 0.3])
@pytest.mark.parametrize("top", [1, 8, VOCAB - 1, VOCAB])
def test_loss_and_gradients_are_those_of_kl_div(top: int, ratio: float, temperature: float) -> None:
    states, weight, bias, labels, teacher = case()
    soft = teacher_of(teacher, top, temperature)
    leaves = [one.requires_grad_() for one in (states, weight, bias)]
    found = distilled_loss(states, weight, bias, labels, soft, ratio)
    wanted = by_torch(F.linear(states, weight, bias), labels, teacher, soft, ratio, top)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), abs=1e-9)
    pairs = zip(torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * wanted, leaves), strict=True)
    for own, theirs in pairs:
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-9)


def test_labels_in_float32_with_the_whole_vocabulary_are_the_full_divergence() -> None:
    states, weight, bias, labels, teacher = case()
    whole = teacher_of(teacher, VOCAB)
    kept = SoftTargets(whole.tokens, whole.logprobs.float(), whole.tail.float())
    found = distilled_loss(states, weight, bias, labels, kept, 1.0)
    ours, theirs = F.linear(states, weight, bias).log_softmax(1), teacher.log_softmax(1)
    full = F.kl_div(ours, theirs, reduction="sum", log_target=True)
    assert float(found) == pytest.approx(float(full), abs=1e-6)


def test_logits_that_are_no_plain_heads_give_the_same() -> None:
    states, weight, bias, labels, teacher = case()
    soft = teacher_of(teacher, 8, 2.0)
    logits = F.linear(states, weight, bias)
    inside, beside = states.clone().requires_grad_(), states.clone().requires_grad_()
    one = distilled_loss(inside, weight, bias, labels, soft, 0.4)
    other = distilled_loss_of(F.linear(beside, weight, bias), labels, soft, 0.4)
    torch.testing.assert_close(one, other)
    one.backward()
    other.backward()
    torch.testing.assert_close(inside.grad, beside.grad)
    assert torch.equal(logits, F.linear(states, weight, bias))  # they are not overwritten


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    states, weight, bias, labels, teacher = case()
    soft = teacher_of(teacher, 8)
    whole = states.clone().requires_grad_()
    expected = distilled_loss(whole, weight, bias, labels, soft, 0.5)
    expected.backward()
    monkeypatch.setattr(chunked_loss, "_CPU_LOGITS", 6 * VOCAB)  # two targets in a chunk
    parts = states.clone().requires_grad_()
    found = distilled_loss(parts, weight, bias, labels, soft, 0.5)
    found.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_a_head_in_bfloat16_is_summed_in_float32() -> None:
    states, weight, bias, labels, teacher = case()
    states, weight, bias = (one.bfloat16() for one in (states, weight, bias))
    soft = teacher_of(teacher, 8)
    leaf = states.clone().requires_grad_()
    found = distilled_loss(leaf, weight, bias, labels, soft, 0.5)
    assert found.dtype == torch.float32
    wide = states.double().requires_grad_()
    logits = F.linear(wide, weight.double(), bias.double())
    wanted = by_torch(logits, labels, teacher, soft, 0.5, 8)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    found.backward()
    wanted.backward()
    assert leaf.grad is not None
    assert wide.grad is not None
    assert float((leaf.grad.double() - wide.grad).norm() / wide.grad.norm()) < 0.01


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), top=st.integers(1, VOCAB - 1), sharp=st.floats(0.1, 40.0))
def test_a_coarse_divergence_is_never_below_zero_nor_above_the_full_one(
    seed: int, top: int, sharp: float
) -> None:
    states, weight, bias, labels, teacher = case(seed, targets=3)
    teacher = sharp * teacher
    some = float(distilled_loss(states, weight, bias, labels, teacher_of(teacher, top), 1.0))
    full = float(distilled_loss(states, weight, bias, labels, teacher_of(teacher, VOCAB), 1.0))
    assert -1e-9 <= some <= full + 1e-9


def test_a_student_that_says_what_its_teacher_does_has_nothing_to_learn() -> None:
    _, _, _, labels, teacher = case()
    logits = teacher.clone().requires_grad_()
    loss = distilled_loss_of(logits, labels, teacher_of(teacher, 8), 1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-12
