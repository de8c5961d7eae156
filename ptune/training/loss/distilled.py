"""The loss of distillation from labels: cross-entropy of the given tokens, and forward KL from a teacher's distribution of each
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
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ptune.training.loss.judged import Verdict, divergence


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher says of each target: its k most likely tokens, and how likely all others are together.

    A `ptune.training.loss.judged.Judge`: the loss is (1 - ratio) cross-entropy + ratio T² KL.
    """

    tokens: Tensor  # [targets, k] int64
    logprobs: Tensor  # [targets, k]
    tail: Tensor  # [targets] log of the mass of all other tokens; -inf where there are none
    temperature: float = 1.0
    ratio: float = 1.0
    arrays: ClassVar[int] = 3

    def split(self, rows: int) -> list[SoftTargets]:
        """In chunks of so many targets."""
        parts = zip(self.tokens.split(rows), self.logprobs.split(rows), self.tail.split(rows), strict=True)
        return [SoftTargets(*part, self.temperature, self.ratio) for part in parts]

    def verdict(self, logits: Tensor, labels: Tensor) -> Verdict:
        """See `Judge`."""
        temperature, tokens, ratio = self.temperature, self.tokens, self.ratio
        known, tail = self.logprobs.to(logits.dtype), self.tail.to(logits.dtype)
        whole = logits.logsumexp(1, keepdim=True)
        log_p = (logits.gather(1, labels[:, None]) - whole)[:, 0]
        loss = (ratio - 1) * log_p.sum()
        gradient = (logits - whole).exp_().mul_(1 - ratio)
        gradient.scatter_add_(1, labels[:, None], torch.full_like(whole, ratio - 1))

        logits /= temperature
        own = logits.gather(1, tokens)
        logits.scatter_(1, tokens, -torch.inf)  # leaves the tail
        rest = logits.logsumexp(1)
        whole = torch.logaddexp(rest, own.logsumexp(1))
        own, own_tail = own - whole[:, None], rest - whole
        loss += ratio * temperature**2 * (divergence(known, own).sum() + divergence(tail, own_tail).sum())

        factor = ratio * temperature
        logits -= torch.where(rest.isinf(), 0.0, rest)[:, None]  # no tail: all of them are -inf already
        gradient.add_(logits.exp_().mul_((factor * (own_tail.exp() - tail.exp()))[:, None]))
        gradient.scatter_add_(1, tokens, factor * (own.exp() - known.exp()))
        return Verdict(loss, gradient, log_p)
