"""The objective of preferences: the loss of each pair, from the log-probabilities of its two answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptune.config.preference import Preference
from ptune.data.shapes.preferences import Pair
from ptune.tasks.preference.losses import Answers, losses, won
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.objective import Score
from ptune.training.rows.answer_rows import AnswerRows, answer_rows, size
from ptune.training.rows.packing import ALONE, Share, targets

Reference = Mapping[str, NDArray[np.float64]]
"""Split -> log-probabilities of its answers before training, [pairs, 2]."""


@dataclass(frozen=True)
class PreferenceObjective:
    """Sum of the losses of pairs. `Score.correct` counts those whose better answer is preferred, in training, too."""

    task: Preference
    next_token: NextTokenObjective
    reference: Reference = field(default_factory=dict)  # empty for a loss that has none
    unit = "tokens"

    def size(self, example: Pair) -> int:
        """Number of tokens of both answers, with their prompt once."""
        return size(example)

    def targets(self, example: Pair) -> int:
        """One: the loss is over pairs."""
        return 1

    def batches(self, examples: Sequence[Pair], share: Share = ALONE) -> Iterator[AnswerRows[Pair]]:
        """Rows of whole pairs."""
        own = self.next_token
        return answer_rows(examples, own.max_tokens, own.device, share, packed=own.packed)

    def score(self, model: nn.Module, batch: AnswerRows[Pair]) -> Score:
        """Loss and preferred pairs, summed over the batch's pairs."""
        answers, tokens = self.answers(model, batch)
        if not batch.groups:
            nothing = answers.sum() * 0.0
            return Score(nothing, nothing.detach(), 0)
        of_model, of_reference = _sides(answers, tokens), self._reference(batch, tokens, answers)
        loss = losses(self.task, of_model, of_reference).sum()
        return Score(loss, won(self.task, of_model, of_reference).sum().to(loss), len(batch.groups))

    def constant_loss(self, examples: Sequence[Pair]) -> None:
        """None: there are no labels."""

    def answers(self, model: nn.Module, batch: AnswerRows[Pair]) -> tuple[Tensor, Tensor]:
        """Log-probabilities [2 pairs] of all answers, and the numbers of their tokens."""
        each = torch.cat([self.next_token.losses(model, one) for one in batch.passes])
        sums = each.new_zeros(2 * len(batch.groups))
        if not batch.groups:
            return each.sum()[None], sums
        counts = [targets(side) for pair in batch.groups for side in pair.sides]
        return sums.index_add(0, batch.of, -each), each.new_tensor(counts)

    def _reference(self, batch: AnswerRows[Pair], tokens: Tensor, like: Tensor) -> Answers | None:
        if not self.reference:
            return None
        known = [self.reference[pair.split][pair.number] for pair in batch.groups]
        return _sides(like.new_tensor(np.concatenate(known)), tokens)


def _sides(answers: Tensor, tokens: Tensor) -> Answers:
    return Answers(answers[::2], answers[1::2], tokens[::2], tokens[1::2])
