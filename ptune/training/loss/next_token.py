"""Next-token cross-entropy of a causal language model, at the targets of packed examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ptune.codecs.chat import Example
from ptune.training.loss.head import replaced_by_judged_loss, replaced_by_loss, replaced_by_losses
from ptune.training.loss.judged import Judge, judged_loss_of
from ptune.training.objective import Score, score_of
from ptune.training.rows.packing import ALONE, Batch, Share, one_each, pack, targets
from ptune.training.rows.segments import segments
from ptune.training.rows.virtual_tokens import virtual_tokens


@dataclass(frozen=True)
class NextTokenObjective:
    """Sum of cross-entropies over the targets; the head computes only at positions that predict a target.

    In training each counts as often as its example's weight says. In validation it counts once.
    """

    packed: bool  # whether the model keeps packed examples apart, see `segments.packing`
    max_tokens: int  # most tokens in one forward pass
    device: torch.device
    head: nn.Linear | None = (
        None  # see `head.plain_head`; without it the logits of a whole batch are in memory
    )
    smoothing: float = 0.0  # see `task.label_smoothing`
    by_probability: bool = (
        False  # whether each target's loss counts by its probability, in training: `task.loss_type` dft
    )
    unit = "tokens"

    def size(self, example: Example) -> int:
        """Number of tokens."""
        return len(example)

    def targets(self, example: Example) -> float:
        """Number of tokens to predict, each as often as it counts in training."""
        return targets(example) if example.weight == 1 else example.weight * targets(example)

    def batches(self, examples: Sequence[Example], share: Share = ALONE) -> Iterator[Batch]:
        """Rows of several whole examples if `packed`, else one row per example."""
        if self.packed:
            return pack(examples, self.max_tokens, self.device, share)
        return one_each(examples, self.device, share)

    def score(self, model: nn.Module, batch: Batch) -> Score:
        """Loss and correct predictions, summed over the batch's targets."""
        weights = batch.weights if model.training else None
        counted = len(batch.labels) if weights is None else float(weights.sum())
        if self.by_probability and model.training:
            losses = self.losses(model, batch)
            losses = losses * (-losses.detach()).exp()
            loss = losses.sum() if weights is None else losses @ weights.to(losses.dtype)
            return Score(loss, loss.new_zeros(()), counted)
        if self.head is not None:
            training = model.training
            with replaced_by_loss(
                self.head, batch.labels, self.device, self.smoothing, weights, training=training
            ):
                loss, correct = self.logits(model, batch)[0]
            return Score(loss, correct.detach(), counted)
        logits = self.logits(model, batch)
        return score_of(
            logits, batch.labels, training=model.training, smoothing=self.smoothing, factors=weights
        )

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The cross-entropy of each target of the batch, [targets], in float32 at least."""
        if self.head is not None:
            with replaced_by_losses(self.head, batch.labels, self.device):
                return self.logits(model, batch)[: len(batch.labels), 0]
        logits = self.logits(model, batch)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(wide, batch.labels, reduction="none")

    def judged(self, model: nn.Module, batch: Batch, judge: Judge) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the losses [] that a judge gives the batch's targets, and the log-probability of each [targets]."""
        if self.head is None:
            return judged_loss_of(self.logits(model, batch), batch.labels, judge)
        with replaced_by_judged_loss(self.head, batch.labels, judge, self.device):
            found = self.logits(model, batch)[:, 0]
        return found[0], found[1:].detach()

    def constant_loss(self, examples: Sequence[Example]) -> None:
        """None: there are no labels."""

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [targets, vocab] at the positions that predict the targets."""
        positions = {"position_ids": batch.position_ids} if self.packed else {}
        kept = batch.predict_at + virtual_tokens(model)
        with segments(batch.lengths, batch.shared):
            output = model(input_ids=batch.input_ids, use_cache=False, logits_to_keep=kept, **positions)
        logits: torch.Tensor = output.logits[0]
        return logits
