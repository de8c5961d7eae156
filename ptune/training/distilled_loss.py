"""The loss of distillation: cross-entropy of the given tokens, and forward KL from a teacher's distribution of each
(Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

Of a teacher's distribution only the k most likely tokens are known, and the mass of all others, the tail. Both models'
distributions are made coarse alike, into k tokens and one bucket, so that their divergence

    sum over the k tokens of p (log p - log q)  +  p_tail (log p_tail - log q_tail)

is one of two distributions: never below 0, 0 where the student says what is known of the teacher, at most the full one (the
data processing inequality), and the full one where k is the vocabulary. Without the bucket the student could lower the loss by
giving the k tokens more mass than the teacher does. Its gradient with respect to a logit is q - p for the k tokens, and
q (1 - p_tail / q_tail) for the others, which share the tail as the student has it.

At a temperature T both are softmax(logits / T): the teacher's tail was measured at T, and cannot be computed from that at 1.
The divergence then counts T² times, so that gradients stay as large as they are at 1.

Like `ptune.training.chunked_loss` it computes a chunk of targets at a time, with the gradient in the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptune.training.chunked_loss import Gradients, accumulator, chunk_rows, logits_of

_ARRAYS = 3  # as large as a chunk's logits that exist at once, where the plain loss has one


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher says of each target: its k most likely tokens, and how likely all others are together."""

    tokens: Tensor  # [targets, k] int64
    logprobs: Tensor  # [targets, k]
    tail: Tensor  # [targets] log of the mass of all other tokens; -inf where there are none
    temperature: float = 1.0

    def split(self, rows: int) -> list[SoftTargets]:
        """In chunks of so many targets."""
        parts = zip(self.tokens.split(rows), self.logprobs.split(rows), self.tail.split(rows), strict=True)
        return [SoftTargets(*part, self.temperature) for part in parts]


def distilled_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    teacher: SoftTargets,
    device: torch.device,
    ratio: float,
) -> Tensor:
    """Sum over the targets of (1 - ratio) cross-entropy + ratio T² KL, []; it can be differentiated once.

    hidden: [targets, hidden]; weight: [vocab, hidden]; bias: [vocab]; labels: [targets]; device: see `chunked_loss`.
    """
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    loss: Tensor = _InTheHead.apply(hidden, weight, bias, labels, teacher, device, ratio)
    return loss


def distilled_loss_of(logits: Tensor, labels: Tensor, teacher: SoftTargets, ratio: float) -> Tensor:
    """The same of logits [targets, vocab], for models that compute more than a plain head does."""
    loss: Tensor = _OfLogits.apply(logits, labels, teacher, ratio)
    return loss


class _InTheHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        teacher: SoftTargets,
        device: torch.device,
        ratio: float,
    ) -> Tensor:
        gradients = Gradients.of(hidden, weight, bias, ctx.needs_input_grad)
        rows = max(1, chunk_rows(weight, device) // _ARRAYS)
        loss = hidden.new_zeros((), dtype=accumulator(weight))
        parts = zip(hidden.split(rows), labels.split(rows), teacher.split(rows), strict=True)
        for number, (some, wanted, soft) in enumerate(parts):
            part, gradient = _loss_and_gradient(logits_of(some, weight, bias, device), wanted, soft, ratio)
            loss += part
            if gradients.wanted:  # the labels' own share is in it already
                gradients.add(gradient, some, weight, wanted, device, first=number * rows, share=0.0)
            del gradient  # before the next chunk's is there
        ctx.gradients = gradients
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return *gradients.scaled(factor), None, None, None, None


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, teacher: SoftTargets, ratio: float) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        loss, gradient = _loss_and_gradient(wide, labels, teacher, ratio)
        ctx.gradient, ctx.dtype = gradient if ctx.needs_input_grad[0] else None, logits.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        return (None if gradient is None else gradient.mul_(factor).to(ctx.dtype)), None, None, None


def _loss_and_gradient(
    logits: Tensor, labels: Tensor, teacher: SoftTargets, ratio: float
) -> tuple[Tensor, Tensor]:
    """The loss [] of some targets, and its gradient [rows, vocab] with respect to their logits, which are overwritten."""
    temperature, tokens = teacher.temperature, teacher.tokens
    known, tail = teacher.logprobs.to(logits.dtype), teacher.tail.to(logits.dtype)
    whole = logits.logsumexp(1, keepdim=True)
    loss = (1 - ratio) * (whole - logits.gather(1, labels[:, None])).sum()
    gradient = (logits - whole).exp_().mul_(1 - ratio)
    gradient.scatter_add_(1, labels[:, None], torch.full_like(whole, ratio - 1))

    logits /= temperature
    own = logits.gather(1, tokens)
    logits.scatter_(1, tokens, -torch.inf)  # leaves the tail
    rest = logits.logsumexp(1)
    whole = torch.logaddexp(rest, own.logsumexp(1))
    own, own_tail = own - whole[:, None], rest - whole
    loss += ratio * temperature**2 * (_divergence(known, own).sum() + _divergence(tail, own_tail).sum())

    factor = ratio * temperature
    logits -= torch.where(rest.isinf(), 0.0, rest)[:, None]  # no tail: all of them are -inf already
    gradient.add_(logits.exp_().mul_((factor * (own_tail.exp() - tail.exp()))[:, None]))
    gradient.scatter_add_(1, tokens, factor * (own.exp() - known.exp()))
    return loss, gradient


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """p (log p - log q) of each, of log-probabilities; 0 where p is."""
    return torch.where(teacher == -torch.inf, 0.0, teacher.exp() * (teacher - student))
