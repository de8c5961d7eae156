"""The objective of distillation: cross-entropy of each target, and KL from the teacher's distribution of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from ptune.codecs.chat import Example
from ptune.data.examples.store import Examples
from ptune.data.teacher.labels import TeacherLabels
from ptune.engine.decoder.answers.distributions import Distributions
from ptune.training.loss.distilled import SoftTargets
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.objective import Score
from ptune.training.rows.packing import ALONE, Batch, Share, bins, idle, row_of, targets


@dataclass(frozen=True, slots=True)
class Labelled:
    """An example, and what the teacher says of its targets; None in validation, which is without a teacher."""

    example: Example
    label: Distributions | None

    def __len__(self) -> int:
        return len(self.example)


@dataclass(frozen=True)
class LabelledExamples(Sequence[Labelled]):
    """The examples of a split with their labels, which are read on access."""

    examples: Examples
    labels: TeacherLabels | None

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Labelled: ...
    @overload
    def __getitem__(self, index: slice) -> list[Labelled]: ...
    def __getitem__(self, index: int | slice) -> Labelled | list[Labelled]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        example = self.examples[index]
        return Labelled(example, None if self.labels is None else self.labels.of(example))


@dataclass(frozen=True)
class LabelledRow:
    """One row of whole examples, and the teacher's distributions of its targets."""

    row: Batch
    teacher: SoftTargets | None


@dataclass(frozen=True)
class DistillationObjective:
    """Sum of the losses of the targets. In validation it is the cross-entropy alone, which can be compared with any run's."""

    next_token: NextTokenObjective
    ratio: float  # see `task.kd_ratio`
    temperature: float  # of the labels
    unit = "tokens"

    def size(self, example: Labelled) -> int:
        """Number of tokens."""
        return len(example)

    def targets(self, example: Labelled) -> int:
        """Number of tokens to predict."""
        return targets(example.example)

    def batches(self, examples: Sequence[Labelled], share: Share = ALONE) -> Iterator[LabelledRow]:
        """As `NextTokenObjective.batches`, with labels."""
        own = self.next_token
        lengths = [len(example) for example in examples]
        rows = bins(lengths, own.max_tokens if own.packed else 1, share.processes)
        for row in rows[share.process :: share.processes]:
            some = [examples[index] for index in row]
            plain = [one.example for one in some] or [idle(examples[0].example)]
            yield LabelledRow(row_of(plain, own.device), self._teacher(some))

    def score(self, model: nn.Module, batch: LabelledRow) -> Score:
        """Loss and correct predictions, summed over the batch's targets."""
        own, labels = self.next_token, batch.row.labels
        if not model.training or (batch.teacher is None and len(labels)):
            return own.score(model, batch.row)
        if batch.teacher is None:  # a process without an example of its own
            nothing = own.logits(model, batch.row).sum() * 0.0
            return Score(nothing, nothing.detach(), 0)
        loss, _ = own.judged(model, batch.row, batch.teacher)
        return Score(loss, loss.new_zeros(()), len(labels))

    def constant_loss(self, examples: Sequence[Labelled]) -> None:
        """None: there are no labels of a few kinds."""

    def _teacher(self, examples: Sequence[Labelled]) -> SoftTargets | None:
        labels = [one.label for one in examples if one.label is not None]
        if len(labels) != len(examples) or not labels:
            return None
        device = self.next_token.device

        def joined(name: str, kind: type[np.generic]) -> Tensor:
            arrays = [getattr(label, name) for label in labels]
            return torch.from_numpy(np.concatenate(arrays).astype(kind)).to(device)

        return SoftTargets(
            joined("tokens", np.int64),
            joined("logprobs", np.float32),
            joined("tail", np.float32),
            self.temperature,
            self.ratio,
        )
