"""The objective of online preferences: the loss of a group's best answer against its worst, as of a pair in the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from ptune.config.preference import Preference
from ptune.tasks.preference.losses import Answers, losses, margins, won
from ptune.tasks.reinforcement.objective import ReinforcementObjective
from ptune.tasks.reinforcement.rollout import Rollout
from ptune.training.objective import Score
from ptune.training.rows.answer_rows import AnswerRows, answer_rows, size
from ptune.training.rows.packing import ALONE, Share

FIGURES = ("margin", "accuracy")
"""Of the pairs of a step, before it is learnt from: the mean of `margins`, and the share that is `won`."""


@dataclass(frozen=True)
class PairObjective(ReinforcementObjective):
    """Sum of the losses of pairs. A group of which no answer is better is computed for the certificate, and has no loss."""

    @cached_property
    def compared(self) -> Preference:
        """How the answers of a pair are compared."""
        assert self.task.pairs is not None
        return self.task.pairs

    def size(self, example: Rollout) -> int:
        """Tokens of both answers, with their prompt once."""
        return size(example.pair)

    def targets(self, example: Rollout) -> int:
        """One, the loss being over pairs; none where no answer is better."""
        return 0 if example.alike else 1

    def batches(self, examples: Sequence[Rollout], share: Share = ALONE) -> Iterator[AnswerRows[Rollout]]:
        """Rows of whole pairs."""
        own = self.next_token
        pairs = [example.pair for example in examples]
        return answer_rows(pairs, own.max_tokens, own.device, share, packed=own.packed)

    def score(self, model: nn.Module, batch: AnswerRows[Rollout]) -> Score:
        """Loss, summed over the batch's pairs."""
        log_p = -self._losses(model, batch)
        if not batch.groups:
            nothing = log_p.sum() * 0.0
            return Score(nothing, nothing.detach(), 0)
        answers = [answer for group in batch.groups for answer in group.answers]
        sampled = log_p.new_tensor([one for answer in answers for one in answer.log_probabilities])
        self.seen.note(log_p.detach(), sampled)
        of_model, of_reference = _summed(log_p, batch), _summed(self._reference(batch), batch)
        learnt = log_p.new_tensor([self.targets(group) for group in batch.groups]).bool()
        self.seen.add("margin", margins(self.compared, of_model, of_reference).detach()[learnt])
        self.seen.add("accuracy", won(self.compared, of_model, of_reference)[learnt])
        loss = losses(self.compared, of_model, of_reference)[learnt].sum()
        return Score(loss, loss.new_zeros(()), sum(map(self.targets, batch.groups)))


def _summed(log_p: Tensor, batch: AnswerRows[Rollout]) -> Answers:
    """The log-probabilities of whole answers. log_p: of the answers' tokens, [targets]."""
    counts = log_p.new_tensor([len(answer.ids) for group in batch.groups for answer in group.answers])
    sums = log_p.new_zeros(len(counts)).index_add(0, batch.of, log_p)
    return Answers(sums[::2], sums[1::2], counts[::2], counts[1::2])
