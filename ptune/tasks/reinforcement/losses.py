"""The losses of sampled answers. Papers: `ptune.config.reinforcement.LOSSES`.

A is the advantage of an answer, n the number of its tokens, and r how much likelier the model finds it now than when it
answered: exp(p - before), of the log-probabilities of each token, or of the answer by their mean or their sum. With s(r) the lesser of
r A and clip(r) A (PPO, Schulman et al. 2017, https://arxiv.org/abs/1707.06347):

    grpo     -mean of s over tokens      A = (reward - the group's mean) / the group's standard deviation
    dapo     -sum of s / all tokens      the same A; all tokens of the step's answers
    dr_grpo  -sum of s / longest         A = reward - the group's mean; longest is `answer_tokens`
    rloo     -s, r of the sum of p       A = reward - the mean of the group's other answers
    gspo     -s, r of the mean of p      A as of grpo

summed over answers, and but for dapo divided by their number. In the first update from a batch of answers the model is the
one that gave them: r is 1, nothing is clipped, and the gradient is that of a policy (Williams 1992,
https://doi.org/10.1007/BF00992696), with p in the place of s; that of gspo is then grpo's.

The divergence from the model before training is added `kl` times, per token by the estimator exp(q - p) - (q - p) - 1 (Schulman
2020, http://joschu.net/blog/kl-approx.html), q being that model's log-probability; it is divided as the loss is, in rloo by n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptune.config.reinforcement import Reinforcement


def answer_losses(
    task: Reinforcement,
    log_p: Tensor,
    of: Tensor,
    advantages: Tensor,
    reference: Tensor | None,
    before: Tensor | None = None,
) -> Tensor:
    """The loss of each answer, [answers].

    log_p: of the answers' tokens, [tokens]. of: the answer of each token. reference: as `log_p`, where `kl` is not 0. before: as
    `log_p`, of the model that answered; None: it is this one.
    """
    counts = log_p.new_zeros(len(advantages)).index_add(0, of, torch.ones_like(log_p))
    per = {"answer": counts, "longest": torch.full_like(counts, task.answer_tokens)}
    divided = 1 / per.get(task.facts.per, torch.ones_like(counts))
    ratio = ratios(task, log_p, log_p.detach() if before is None else before, of, counts)
    if task.facts.ratio == "token":
        each = -_lesser(task, ratio, advantages[of]) * divided[of]
        losses = torch.zeros_like(counts).index_add(0, of, each)
    else:
        losses = -_lesser(task, ratio, advantages)
    if reference is not None:
        losses = losses.index_add(0, of, task.kl * divergence(log_p, reference) * divided[of])
    return losses


def ratios(task: Reinforcement, log_p: Tensor, before: Tensor, of: Tensor, counts: Tensor) -> Tensor:
    """How much likelier than `before` each token is, [tokens], or each answer, [answers]. counts: of each answer's tokens."""
    more = log_p - before
    if task.facts.ratio == "token":
        return torch.exp(more)
    whole = more.new_zeros(len(counts)).index_add(0, of, more)
    return torch.exp(whole / counts if task.facts.ratio == "mean" else whole)


def is_clipped(task: Reinforcement, ratio: Tensor, advantages: Tensor) -> Tensor:
    """Where the advantage has been followed as far as the clip lets it, so that nothing more is learnt. All: [same]."""
    low, high = task.clip_range
    return ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))


def divergence(log_p: Tensor, reference: Tensor) -> Tensor:
    """The estimate of each token's KL divergence from the reference; never negative."""
    less = reference - log_p
    return torch.exp(less) - less - 1


def _lesser(task: Reinforcement, ratio: Tensor, advantages: Tensor) -> Tensor:
    """PPO's surrogate, of which more is better."""
    return torch.minimum(ratio * advantages, ratio.clamp(*task.clip_range) * advantages)
