"""The seam between the loop and a task: how examples become batches, and what a batch's loss is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ptune.codecs.chat import Example
from ptune.training.packing import ALONE, Batch, Share


@dataclass(frozen=True)
class Score:
    """Sums over the targets of a batch."""

    loss: torch.Tensor  # [], with its graph
    correct: torch.Tensor  # [], targets whose most likely token is the right one; counted in eval mode only
    targets: int


class Objective(Protocol):
    """What a task trains for."""

    def batches(self, examples: Sequence[Example], share: Share = ALONE) -> Iterator[Batch]:
        """Forward passes that together hold one process's share of these examples; equally many in every process."""

    def score(self, model: nn.Module, batch: Batch) -> Score:
        """One forward pass."""
