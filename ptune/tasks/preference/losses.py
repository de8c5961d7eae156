"""The losses of a pair of answers, from the log-probabilities of both. Papers: `ptune.config.preference.LOSSES`.

c and r are the log-probabilities of the chosen and the rejected answer, each the sum over its tokens; with a bar, the mean.
Each is the model's, less the reference's where the loss has one. b is beta, e the label smoothing, s the logistic function.

    dpo       -(1 - e) log s(b (c - r)) - e log s(-b (c - r))
    robust    (that with a minus before e) / (1 - 2 e)
    ipo       (c̄ - r̄ - 1 / (2 b))²
    hinge     max(0, 1 - b (c - r))
    apo_zero  1 - s(b c) + s(b r)
    orpo      -b log s(log odds(c̄) - log odds(r̄)), where odds(x) = eˣ / (1 - eˣ)
    simpo     as dpo, of b (c̄ - r̄) - margin
    cpo       as dpo

The better answer's cross-entropy per token is added, `sft_weight` times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ptune.config.preference import LossName, Preference


@dataclass(frozen=True)
class Answers:
    """The log-probabilities of pairs, [pairs] each."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """The log-probabilities per token."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens

    def less(self, reference: Answers) -> Answers:
        """By how much more likely the answers are than in the reference."""
        return Answers(
            self.chosen - reference.chosen,
            self.rejected - reference.rejected,
            self.chosen_tokens,
            self.rejected_tokens,
        )


def losses(task: Preference, model: Answers, reference: Answers | None) -> Tensor:
    """The loss of each pair, [pairs]. reference: needed where the loss has one."""
    compared = model
    if task.facts.reference:
        assert reference is not None
        compared = model.less(reference)
    found = _LOSSES[task.loss](task, compared)
    return found - task.sft * model.means[0] if task.sft else found


def won(task: Preference, model: Answers, reference: Answers | None) -> Tensor:
    """Whether the better answer is preferred: more likely than the other, against the reference if there is one, [pairs].

    Losses of means compare means.
    """
    better, worse = _sides(task, model, reference)
    return better > worse


def margins(task: Preference, model: Answers, reference: Answers | None) -> Tensor:
    """By how much the better answer is preferred, as `won` compares, `strength` times, [pairs]."""
    better, worse = _sides(task, model, reference)
    return task.strength * (better - worse)


def _sides(task: Preference, model: Answers, reference: Answers | None) -> tuple[Tensor, Tensor]:
    compared = model.less(reference) if task.facts.reference and reference is not None else model
    return compared.means if task.compares_means else (compared.chosen, compared.rejected)


def _dpo(task: Preference, of: Answers) -> Tensor:
    return _smoothed(task.strength * (of.chosen - of.rejected), task.label_smoothing)


def _robust(task: Preference, of: Answers) -> Tensor:
    logits, e = task.strength * (of.chosen - of.rejected), task.label_smoothing
    return ((e - 1) * F.logsigmoid(logits) + e * F.logsigmoid(-logits)) / (1 - 2 * e)


def _ipo(task: Preference, of: Answers) -> Tensor:
    chosen, rejected = of.means
    return (chosen - rejected - 1 / (2 * task.strength)) ** 2


def _hinge(task: Preference, of: Answers) -> Tensor:
    return torch.relu(1 - task.strength * (of.chosen - of.rejected))


def _apo_zero(task: Preference, of: Answers) -> Tensor:
    return torch.sigmoid(-task.strength * of.chosen) + torch.sigmoid(task.strength * of.rejected)


def _orpo(task: Preference, of: Answers) -> Tensor:
    chosen, rejected = (side - _log_of_rest(side) for side in of.means)
    return -task.strength * F.logsigmoid(chosen - rejected)


def _log_of_rest(logs: Tensor) -> Tensor:
    """log(1 - p) of p = e^logs. Of p = 1 it is that of the largest p that the type holds, without a gradient."""
    return torch.log(-torch.expm1(logs.clamp(max=-torch.finfo(logs.dtype).eps)))


def _simpo(task: Preference, of: Answers) -> Tensor:
    chosen, rejected = of.means
    return _smoothed(task.strength * (chosen - rejected) - task.margin, task.label_smoothing)


def _smoothed(logits: Tensor, e: float) -> Tensor:
    kept = -(1 - e) * F.logsigmoid(logits)
    return kept - e * F.logsigmoid(-logits) if e else kept


_LOSSES: Mapping[LossName, Callable[[Preference, Answers], Tensor]] = {
    "dpo": _dpo,
    "ipo": _ipo,
    "robust": _robust,
    "hinge": _hinge,
    "apo_zero": _apo_zero,
    "orpo": _orpo,
    "simpo": _simpo,
    "cpo": _dpo,
}
