"""The objective of reinforcement: the loss of sampled answers, and how far their log-probabilities are from the engine's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.config.reinforcement import Reinforcement
from ptune.tasks.reinforcement.losses import answer_losses, divergence, is_clipped, ratios
from ptune.tasks.reinforcement.rollout import Rollout
from ptune.tasks.reinforcement.seen import Seen
from ptune.training.layers.adapter_off import without_adapter
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.objective import Score
from ptune.training.rows.answer_rows import AnswerRows, answer_rows, size
from ptune.training.rows.packing import ALONE, Share
from ptune.training.sampler import Sampler

KL = ("kl",)
"""Of the tokens of a step: the mean divergence from the model before training."""
RATIO = ("ratio", "clipped")
"""Of the tokens of a step, or of its answers, from the second update on: the mean of `ratios`, and the share that `is_clipped`."""


@dataclass(frozen=True)
class ReinforcementObjective:
    """Sum of the losses of sampled answers. base: the model, which answers as before training with its adapter off."""

    task: Reinforcement
    next_token: NextTokenObjective
    base: PreTrainedModel
    seen: Seen = field(default_factory=Seen)
    sampler: Sampler | None = None
    unit = "tokens"

    def size(self, example: Rollout) -> int:
        """Tokens of all answers, with their prompt once."""
        return size(example)

    def targets(self, example: Rollout) -> int:
        """Number of answers, or of their tokens, that the loss is divided by."""
        return example.tokens if self.task.facts.per == "token" else len(example.answers)

    def batches(self, examples: Sequence[Rollout], share: Share = ALONE) -> Iterator[AnswerRows[Rollout]]:
        """Rows of groups; a group that is too long for one is cut into several."""
        own = self.next_token
        pieces = [piece for example in examples for piece in example.pieces(own.max_tokens)]
        return answer_rows(pieces, own.max_tokens, own.device, share, packed=own.packed)

    def score(self, model: nn.Module, batch: AnswerRows[Rollout]) -> Score:
        """Loss, summed over the batch's answers."""
        log_p = -self._losses(model, batch)
        answers = [answer for group in batch.groups for answer in group.answers]
        if not answers:
            nothing = log_p.sum() * 0.0
            return Score(nothing, nothing.detach(), 0)
        advantages = log_p.new_tensor([one for group in batch.groups for one in group.advantages])
        counted = log_p.new_tensor([one for group in batch.groups for one in group.counted])
        sampled = log_p.new_tensor([one for answer in answers for one in answer.log_probabilities])
        again = batch.groups[0].again
        reference = self._reference(batch) if self.task.kl else None
        losses = answer_losses(self.task, log_p, batch.of, advantages, reference, sampled if again else None)
        if again:
            self._note_ratios(log_p.detach(), sampled, batch.of, advantages, counted.bool())
        else:
            self.seen.note(log_p.detach(), sampled)
            self._keep(log_p.detach(), batch)
        if reference is not None:
            self.seen.add("kl", divergence(log_p.detach(), reference))
        loss = (losses * counted).sum()
        return Score(loss, loss.new_zeros(()), sum(map(self.targets, batch.groups)))

    def _keep(self, log_p: Tensor, batch: AnswerRows[Rollout]) -> None:
        """Keeps each answer's log-probabilities, where more updates learn from it."""
        if self.task.updates > 1:
            numbers = [number for group in batch.groups for number in group.numbers]
            lengths = [len(answer.ids) for group in batch.groups for answer in group.answers]
            self.seen.by_answer.update(zip(numbers, log_p.cpu().split(lengths), strict=True))

    def _note_ratios(
        self, log_p: Tensor, before: Tensor, of: Tensor, advantages: Tensor, counted: Tensor
    ) -> None:
        """Notes `RATIO` of the answers that have a loss. counted: [answers] which these are."""
        ratio = ratios(self.task, log_p, before, of, of.bincount())
        if self.task.facts.ratio == "token":
            advantages, counted = advantages[of], counted[of]
        self.seen.add("ratio", ratio[counted])
        self.seen.add("clipped", is_clipped(self.task, ratio, advantages)[counted])

    def constant_loss(self, examples: Sequence[Rollout]) -> None:
        """None: there are no labels."""

    def _losses(self, model: nn.Module, batch: AnswerRows[Rollout]) -> Tensor:
        return torch.cat([self.next_token.losses(model, one) for one in batch.passes])

    @torch.no_grad()
    def _reference(self, batch: AnswerRows[Rollout]) -> Tensor:
        with without_adapter(self.base):
            return -self._losses(self.base, batch)
