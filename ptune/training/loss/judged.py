"""The loss of targets that a teacher judges, computed in the output head with its gradient, a chunk of targets at a time.

As in `ptune.training.loss.chunked` the logits of a batch never exist as a whole, and the gradient is computed in the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from ptune.training.loss.chunked import Gradients, accumulator, chunk_rows, logits_of


@dataclass(frozen=True)
class Verdict:
    """On some targets."""

    loss: Tensor  # [] summed
    gradient: Tensor  # [targets, vocab] with respect to the logits
    log_p: Tensor  # [targets] the student's log-probability of each label


class Judge(Protocol):
    """What a teacher says of the targets of a batch."""

    arrays: ClassVar[int]
    """As large as a chunk's logits that exist at once, where the plain loss has one."""

    def split(self, rows: int) -> Sequence[Self]:
        """In chunks of so many targets."""

    def verdict(self, logits: Tensor, labels: Tensor) -> Verdict:
        """On targets whose logits are [targets, vocab], in float32 at least; they are overwritten."""


def judged_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, judge: Judge, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The sum of the losses [], which can be differentiated once, and the log-probability of each label [targets].

    hidden: [targets, hidden]; weight: [vocab, hidden]; bias: [vocab]; labels: [targets]; device: see `chunked_loss`.
    """
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    both: tuple[Tensor, Tensor] = _InTheHead.apply(hidden, weight, bias, labels, judge, device)
    return both


def judged_loss_of(logits: Tensor, labels: Tensor, judge: Judge) -> tuple[Tensor, Tensor]:
    """The same of logits [targets, vocab], for models that compute more than a plain head does."""
    both: tuple[Tensor, Tensor] = _OfLogits.apply(logits, labels, judge)
    return both


def divergence(of: Tensor, other: Tensor) -> Tensor:
    """p (log p - log q) of each, of log-probabilities p = `of` and q = `other`; 0 where p is."""
    return torch.where(of == -torch.inf, 0.0, of.exp() * (of - other))


class _InTheHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        judge: Judge,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        gradients = Gradients.of(hidden, weight, bias, ctx.needs_input_grad)
        rows = max(1, chunk_rows(weight, device) // judge.arrays)
        loss = hidden.new_zeros((), dtype=accumulator(weight))
        log_p = hidden.new_empty(len(labels), dtype=accumulator(weight))
        parts = zip(hidden.split(rows), labels.split(rows), judge.split(rows), strict=True)
        for number, (some, wanted, own) in enumerate(parts):
            first = number * rows
            verdict = own.verdict(logits_of(some, weight, bias, device), wanted)
            loss += verdict.loss
            log_p[first : first + len(wanted)] = verdict.log_p
            if gradients.wanted:  # the labels' own share is in it already
                gradients.add(verdict.gradient, some, weight, wanted, device, first=first, share=0.0)
            del verdict  # before the next chunk's is there
        ctx.gradients = gradients
        ctx.mark_non_differentiable(log_p)
        return loss, log_p

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor, _: None) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return *gradients.scaled(factor), None, None, None


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, judge: Judge) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        verdict = judge.verdict(wide, labels)
        ctx.gradient, ctx.dtype = verdict.gradient if ctx.needs_input_grad[0] else None, logits.dtype
        ctx.mark_non_differentiable(verdict.log_p)
        return verdict.loss, verdict.log_p

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor, _: None) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        return (None if gradient is None else gradient.mul_(factor).to(ctx.dtype)), None, None
