"""The loss of on-policy distillation: how far a student is from a teacher, over the whole vocabulary (GKD: Agarwal et al. 2024,
https://arxiv.org/abs/2306.13649).

With p the teacher's distribution of a token, q the student's and m = beta p + (1 - beta) q it is, as in TRL's GKDTrainer,

    beta = 0                  KL(p ‖ q)
    0 < beta < 1              beta KL(p ‖ m) + (1 - beta) KL(q ‖ m)
    beta = 1                  KL(q ‖ p)

Its gradient with respect to the student's logits is q - p at 0, and else w q (r - sum of q r), with r = log q - log m and w = 1 - beta,
or r = log q - log p and w = 1 at 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ptune.training.loss.chunked import logits_of
from ptune.training.loss.judged import Verdict, divergence


@dataclass(frozen=True)
class WholeTeacher:
    """A teacher's distribution of each target, which is computed when it is asked for.

    A `ptune.training.loss.judged.Judge`. Rows of the larger head that the other lacks are no tokens, and are left out.
    """

    states: (
        Tensor  # [targets, hidden] before the teacher's head; without `weight` its logits [targets, vocab]
    )
    weight: Tensor | None  # [vocab, hidden] of its head
    bias: Tensor | None  # [vocab]
    beta: float
    arrays: ClassVar[int] = 7

    def split(self, rows: int) -> list[WholeTeacher]:
        """In chunks of so many targets."""
        return [WholeTeacher(some, self.weight, self.bias, self.beta) for some in self.states.split(rows)]

    def verdict(self, logits: Tensor, labels: Tensor) -> Verdict:
        """See `Judge`."""
        log_p = logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(1)
        teacher = self._logits(logits.device).to(logits.dtype)
        both = min(logits.shape[1], teacher.shape[1])
        loss, gradient = generalized_jsd(logits[:, :both], teacher[:, :both], self.beta)
        if both < logits.shape[1]:
            gradient = torch.nn.functional.pad(gradient, (0, logits.shape[1] - both))
        return Verdict(loss, gradient, log_p)

    def _logits(self, device: torch.device) -> Tensor:
        if self.weight is None:
            return self.states
        return logits_of(self.states, self.weight, self.bias, device)


def generalized_jsd(student: Tensor, teacher: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The divergence, summed over targets, [], and its gradient with respect to the student's logits [targets, vocab].

    student, teacher: logits [targets, vocab].
    """
    q, p = student.log_softmax(1), teacher.log_softmax(1)
    if beta == 0:
        return divergence(p, q).sum(), q.exp() - p.exp()
    if beta == 1:
        return _towards(q, p)
    wide = torch.tensor(beta, dtype=q.dtype, device=q.device)
    m = torch.logaddexp(q + torch.log1p(-wide), p + wide.log())
    loss, gradient = _towards(q, m)
    return beta * divergence(p, m).sum() + (1 - beta) * loss, gradient.mul_(1 - beta)


def _towards(q: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q ‖ other) [], and its gradient with respect to the logits of q where `other` depends on q alone as a mixture does."""
    each = divergence(q, other)
    sums = each.sum(1, keepdim=True)
    return sums.sum(), each.sub_(q.exp().mul_(sums))
