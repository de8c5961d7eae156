"""The losses of sampled answers. Papers: `ptune.config.reinforcement.LOSSES`.

A step's answers come from the weights that it updates, so no probability has changed since they were sampled: there is no
ratio to be clipped, and the gradient is that of a policy (Williams 1992, https://doi.org/10.1007/BF00992696) with the
advantage A of an answer of n tokens, of which each has the log-probability p:

    grpo     -A mean(p)              A = (reward - the group's mean) / the group's standard deviation
    dapo     -A sum(p) / all tokens  the same A; all tokens of the step's answers
    dr_grpo  -A sum(p) / longest     A = reward - the group's mean; longest is `answer_tokens`
    rloo     -A sum(p)               A = reward - the mean of the group's other answers

summed over answers, and but for dapo divided by their number. The divergence from the model before training is added `kl`
times, per token by the estimator exp(q - p) - (q - p) - 1 (Schulman 2020, http://joschu.net/blog/kl-approx.html), q being that
model's log-probability; it is divided as the loss is, in rloo by n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptune.config.reinforcement import Reinforcement


def answer_losses(
    task: Reinforcement, log_p: Tensor, of: Tensor, advantages: Tensor, reference: Tensor | None
) -> Tensor:
    """The loss of each answer, [answers]. Its value is that of the ratio 1, -A; its gradient the one above.

    log_p: of the answers' tokens, [tokens]. of: the answer of each token. reference: as `log_p`, where `kl` is not 0.
    """
    counts = log_p.new_zeros(len(advantages)).index_add(0, of, torch.ones_like(log_p))
    per = {"answer": counts, "whole": counts, "longest": torch.full_like(counts, task.answer_tokens)}
    divided = 1 / per.get(task.facts.per, torch.ones_like(counts))
    if task.facts.per == "whole":
        whole = torch.zeros_like(counts).index_add(0, of, log_p)
        losses = -advantages * torch.exp(whole - whole.detach())
    else:
        each = -advantages[of] * torch.exp(log_p - log_p.detach()) * divided[of]
        losses = torch.zeros_like(counts).index_add(0, of, each)
    if reference is not None:
        losses = losses.index_add(0, of, task.kl * divergence(log_p, reference) * divided[of])
    return losses


def divergence(log_p: Tensor, reference: Tensor) -> Tensor:
    """The estimate of each token's KL divergence from the reference; never negative."""
    less = reference - log_p
    return torch.exp(less) - less - 1
