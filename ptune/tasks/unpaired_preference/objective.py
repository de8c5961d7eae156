"""The objective of judged answers: the loss of each, from its log-probability and from how far the model has moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptune.codecs.chat import Example
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examples.judged import JudgedExample
from ptune.tasks.unpaired_preference.losses import losses, right
from ptune.tasks.unpaired_preference.rows import Row, rows
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.objective import Score
from ptune.training.rows.packing import ALONE, Share

OWN, MISMATCHED = 0, 1
Reference = Mapping[str, NDArray[np.float64]]
"""Split -> log-probabilities before training of its answers after their own prompts, and after others', [answers, 2]."""


@dataclass(eq=False)
class Step:
    """Answers whose losses share one z, and z once the first row of the step has computed it."""

    answers: Sequence[JudgedExample]
    share: Share
    z: Tensor | None = None


@dataclass(frozen=True)
class StepRow:
    """A row of the answers of a step."""

    step: Step
    row: Row

    @property
    def answers(self) -> list[JudgedExample]:
        """The answers of the row."""
        return [self.step.answers[index] for index in self.row.indices]


@dataclass(frozen=True)
class UnpairedObjective:
    """Sum of the losses of answers. `Score.correct` counts those on the right side of z, in training, too."""

    task: UnpairedPreference
    next_token: NextTokenObjective
    reference: Reference = field(default_factory=dict)
    unit = "tokens"

    def size(self, example: JudgedExample) -> int:
        """Number of tokens of the prompt and its answer."""
        return len(example)

    def targets(self, example: JudgedExample) -> int:
        """One: the loss is over answers."""
        return 1

    def batches(self, examples: Sequence[JudgedExample], share: Share = ALONE) -> Iterator[StepRow]:
        """Rows of the answers, which are one step, or all that is validated."""
        step = Step(examples, share)
        for row in self.rows([example.own for example in examples], share):
            yield StepRow(step, row)

    def score(self, model: nn.Module, batch: StepRow) -> Score:
        """Loss and right answers, summed over the row's answers."""
        step = batch.step
        if step.z is None:
            step.z = self._z(model, step)
        found = self.log_probabilities(model, batch.row)
        answers = batch.answers
        if not answers:
            nothing = found.sum() * 0.0
            return Score(nothing, nothing.detach(), 0)
        gained = found - found.new_tensor(self._known(answers, OWN))
        desirable = torch.tensor([answer.desirable for answer in answers], device=found.device)
        z = step.z.to(found)
        loss = losses(self.task, gained, desirable, z).sum()
        return Score(loss, right(gained.detach(), desirable, z).sum().to(loss), len(answers))

    def constant_loss(self, examples: Sequence[JudgedExample]) -> None:
        """None: there are no labels to guess."""

    def rows(self, examples: Sequence[Example], share: Share = ALONE) -> Iterator[Row]:
        """This process's rows of examples."""
        own = self.next_token
        return rows(examples, own.max_tokens, own.device, share, packed=own.packed)

    def log_probabilities(self, model: nn.Module, row: Row) -> Tensor:
        """Of each answer of a row, [answers]; of an idle row one number that does not count."""
        each = self.next_token.losses(model, row.batch)
        if not row.indices:
            return each.sum()[None]
        return each.new_zeros(len(row.indices)).index_add(0, row.of, -each)

    @torch.no_grad()
    def _z(self, model: nn.Module, step: Step) -> Tensor:
        """How much likelier answers to other prompts have become, on average over the step, at least 0; without dropout."""
        total = torch.zeros((), dtype=torch.float64, device=self.next_token.device)
        if not self.task.compares_with_drift:
            return total
        training = model.training
        model.eval()
        for row in self.rows([answer.mismatched for answer in step.answers], step.share):
            found = self.log_probabilities(model, row)
            if row.indices:
                known = self._known([step.answers[index] for index in row.indices], MISMATCHED)
                total += (found - found.new_tensor(known)).sum()
        model.train(training)
        if step.share.processes > 1:
            torch.distributed.all_reduce(total)
        return (total / len(step.answers)).clamp(min=0)

    def _known(self, answers: Sequence[JudgedExample], which: int) -> list[float]:
        return [float(self.reference[answer.split][answer.number, which]) for answer in answers]
