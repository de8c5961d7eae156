"""The loss of pairs of rewards (Bradley and Terry 1952, https://doi.org/10.2307/2334029).

c and r are the rewards of the better and the worse answer, m the pair's margin, s the logistic function:

    -log s(c - r - m) + center_rewards_coefficient (c + r)²

The second part (Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244) draws rewards towards 0, which the first leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptune.data.examples.sequences import SequenceExample
from ptune.tasks.encoder.train import SequenceBatch, SequenceObjective
from ptune.training.objective import Score
from ptune.training.rows.packing import ALONE, Share
from ptune.training.rows.padding import padded_rows


@dataclass(frozen=True, slots=True)
class RewardExample:
    """The examples of a prompt with its better and with its worse answer."""

    chosen: SequenceExample
    rejected: SequenceExample
    margin: float

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)


@dataclass(frozen=True)
class RewardBatch:
    """Whole pairs side by side: chosen, rejected, chosen, …"""

    sides: SequenceBatch
    margins: Tensor  # [pairs]; none for a process that has nothing to compute


def losses(chosen: Tensor, rejected: Tensor, margins: Tensor, center: float) -> Tensor:
    """The loss of each pair, [pairs]."""
    found = -F.logsigmoid(chosen - rejected - margins)
    return found + center * (chosen + rejected) ** 2 if center else found


@dataclass(frozen=True)
class RewardObjective:
    """Sum of the losses of pairs. `Score.correct` counts those whose better answer has the higher reward, in training, too."""

    sequences: SequenceObjective
    center: float
    unit = "tokens"

    def size(self, example: RewardExample) -> int:
        """Tokens of both sides."""
        return len(example)

    def targets(self, example: RewardExample) -> int:
        """One: the loss is over pairs."""
        return 1

    def batches(self, examples: Sequence[RewardExample], share: Share = ALONE) -> Iterator[RewardBatch]:
        """Every `processes`-th batch of whole pairs, built on demand."""
        lengths = [2 * max(len(example.chosen), len(example.rejected)) for example in examples]
        rows = padded_rows(lengths, self.sequences.max_tokens, share.processes)
        for row in rows[share.process :: share.processes]:
            pairs = [examples[index] for index in row]
            sides = [side for pair in pairs or [examples[0]] for side in (pair.chosen, pair.rejected)]
            margins = torch.tensor([pair.margin for pair in pairs], device=self.sequences.device)
            yield RewardBatch(self.sequences.batch(sides), margins)

    def score(self, model: nn.Module, batch: RewardBatch) -> Score:
        """Loss and pairs in order, summed over the batch's pairs."""
        rewards = self.sequences.logits(model, batch.sides)[:, 0]
        if not len(batch.margins):
            nothing = rewards.sum() * 0.0
            return Score(nothing, nothing.detach(), 0)
        chosen, rejected = rewards[::2], rewards[1::2]
        loss = losses(chosen, rejected, batch.margins.to(rewards), self.center).sum()
        return Score(loss, (chosen > rejected).sum().to(loss), len(batch.margins))

    def constant_loss(self, examples: Sequence[RewardExample]) -> None:
        """None: there are no labels."""
