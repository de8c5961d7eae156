"""The seam between the loop and a task: how examples become batches, and what a batch's loss is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from ptune.training.packing import ALONE, Share


@dataclass(frozen=True)
class Score:
    """Sums over the targets of a batch."""

    loss: torch.Tensor  # [], with its graph
    correct: torch.Tensor  # [], targets whose most likely label is the right one; counted in eval mode only
    targets: int


def score_of(logits: torch.Tensor, labels: torch.Tensor, *, training: bool) -> Score:
    """logits [targets, vocab], labels [targets]: cross-entropy and right guesses, summed."""
    # float32 at least: the logarithm of a sum over a whole vocabulary is not for 16 bits.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(logits, labels, reduction="sum")
    right = loss.new_zeros(()) if training else (logits.argmax(-1) == labels).sum()
    return Score(loss, right, len(labels))


class Objective(Protocol):
    """What a task trains for. Examples and batches are the task's own; the loop only hands them on."""

    @property
    def unit(self) -> str:
        """What `size` counts: "tokens" or "images"."""

    def size(self, example: Any) -> int:
        """How much work an example is."""

    def targets(self, example: Any) -> int:
        """How many targets the loss of an example is a sum over."""

    def batches(self, examples: Sequence[Any], share: Share = ALONE) -> Iterator[Any]:
        """Forward passes that together hold one process's share of these examples; equally many in every process."""

    def score(self, model: nn.Module, batch: Any) -> Score:
        """One forward pass."""
