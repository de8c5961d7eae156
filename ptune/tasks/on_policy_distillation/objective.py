"""The objective of on-policy distillation: how far the student is from its teacher at each target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptune.codecs.chat import Example
from ptune.tasks.on_policy_distillation.teacher import Teacher
from ptune.tasks.own_answers.certificate import Certificate
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.objective import Score
from ptune.training.rows.packing import ALONE, Batch, Share, bins, idle, row_of, targets
from ptune.training.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Sampled(Example):
    """A prompt and the student's own answer, whose tokens are the targets."""

    log_probabilities: tuple[float, ...]  # of the answer's tokens, the engine's


@dataclass(frozen=True)
class JudgedRow:
    """One row of whole examples."""

    row: Batch
    sampled: Tensor  # [targets] the engine's log-probabilities; NaN where the answer is the data's


@dataclass(frozen=True)
class OnPolicyObjective:
    """Sum of the divergences from the teacher over the targets, in training and in validation."""

    next_token: NextTokenObjective
    teacher: Teacher
    certificate: Certificate
    sampler: Sampler | None  # None: all answers are the data's
    unit = "tokens"

    def size(self, example: Example) -> int:
        """Number of tokens."""
        return len(example)

    def targets(self, example: Example) -> int:
        """Number of tokens to predict."""
        return targets(example)

    def batches(self, examples: Sequence[Example], share: Share = ALONE) -> Iterator[JudgedRow]:
        """As `NextTokenObjective.batches`."""
        own = self.next_token
        rows = bins([len(one) for one in examples], own.max_tokens if own.packed else 1, share.processes)
        for row in rows[share.process :: share.processes]:
            some = [examples[index] for index in row] or [idle(examples[0])]
            engines = [one for example in some for one in _sampled(example)]
            yield JudgedRow(row_of(some, own.device), torch.tensor(engines, device=own.device))

    def score(self, model: nn.Module, batch: JudgedRow) -> Score:
        """Loss, summed over the batch's targets. How many tokens would be predicted is not counted."""
        loss, log_p = self.next_token.judged(model, batch.row, self.teacher.of(batch.row))
        if model.training and self.sampler is not None:
            own = ~batch.sampled.isnan()
            self.certificate.note(log_p[own], batch.sampled[own])
        return Score(loss, loss.new_full((), math.nan), len(batch.row.labels))

    def constant_loss(self, examples: Sequence[Example]) -> None:
        """None: there are no labels of a few kinds."""


def _sampled(example: Example) -> Sequence[float]:
    if isinstance(example, Sampled):
        return example.log_probabilities
    return (math.nan,) * targets(example)
