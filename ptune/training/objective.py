"""The interface between the loop and a task: how examples become batches, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from ptune.training.rows.packing import ALONE, Share


@dataclass(frozen=True)
class Score:
    """Sums over the targets of a batch."""

    loss: torch.Tensor  # [], with its graph
    correct: torch.Tensor  # [], targets predicted correctly; counted in eval mode only
    targets: float  # their number; in training each counts as often as its loss does


def score_of(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    training: bool,
    smoothing: float = 0.0,
    factors: torch.Tensor | None = None,
) -> Score:
    """Summed cross-entropy and correct predictions of logits [targets, vocab] for labels [targets].

    smoothing: share of each target that is spread over the vocabulary, in training.
    factors: how often each target counts, [targets], in training; default: once.
    """
    # At least float32: 16 bits are too few for the logarithm of a sum over a vocabulary.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    smooth = smoothing if training else 0.0
    if training and factors is not None:
        each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smooth)
        loss = each @ factors.to(each.dtype)
        return Score(loss, loss.new_zeros(()), float(factors.sum()))
    loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smooth)
    right = loss.new_zeros(()) if training else (logits.argmax(-1) == labels).sum()
    return Score(loss, right, len(labels))


class Objective(Protocol):
    """The training objective of a task. The loop treats examples and batches as opaque."""

    @property
    def unit(self) -> str:
        """The unit of `size`: "tokens" or "images"."""

    def size(self, example: Any) -> int:
        """The size of an example, in units."""

    def targets(self, example: Any) -> float:
        """Number of targets that an example's loss sums over, each as often as it counts."""

    def batches(self, examples: Sequence[Any], share: Share = ALONE) -> Iterator[Any]:
        """The batches of one process's share of the examples; every process gets the same number."""

    def score(self, model: nn.Module, batch: Any) -> Score:
        """Runs one forward pass. The mode of `model` itself, whatever its parts are in, says whether the loss is that of training."""

    def constant_loss(self, examples: Sequence[Any]) -> float | None:
        """Loss per target of the best constant answer: every label gets its share. None if there are no labels."""
