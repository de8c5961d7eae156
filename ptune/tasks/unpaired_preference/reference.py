"""The log-probabilities of all answers before training, computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ptune.codecs.chat import Example
from ptune.data.examples.judged import JudgedExample
from ptune.progress import Progress
from ptune.tasks.unpaired_preference.objective import MISMATCHED, OWN, UnpairedObjective

_AT_A_TIME = 64  # answers whose rows are packed together


def log_probabilities(
    label: str, objective: UnpairedObjective, model: nn.Module, answers: Sequence[JudgedExample]
) -> NDArray[np.float64]:
    """Of each answer after its own prompt and, if the loss needs it, after another under `model` in evaluation mode.

    [answers, 2]; what is not needed is 0.
    """
    found = np.zeros((len(answers), 2))
    needed = (OWN, MISMATCHED) if objective.task.compares_with_drift else (OWN,)
    training = model.training
    model.eval()
    with Progress(label, len(answers), unit="answers") as progress:
        for first in range(0, len(answers), _AT_A_TIME):
            some = answers[first : first + _AT_A_TIME]
            for which in needed:
                examples = [answer.own if which == OWN else answer.mismatched for answer in some]
                found[first : first + len(some), which] = of_examples(objective, model, examples)
            progress.advance(len(some))
    model.train(training)
    return found


@torch.no_grad()
def of_examples(
    objective: UnpairedObjective, model: nn.Module, examples: Sequence[Example]
) -> NDArray[np.float64]:
    """The log-probability of each example's targets, [examples]."""
    found = np.zeros(len(examples))
    for row in objective.rows(examples):
        found[list(row.indices)] = objective.log_probabilities(model, row).double().cpu().numpy()
    return found
