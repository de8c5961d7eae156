"""What a step's forward passes show of the answers that are learnt from: the certificate, and means for the journal."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from ptune.tasks.own_answers.certificate import Certificate


@dataclass
class Seen(Certificate):
    """In this process. figures: the names of the means."""

    figures: tuple[str, ...] = ()
    by_answer: dict[int, Tensor] = field(default_factory=dict)  # by its number, its tokens' log-probabilities
    _sums: dict[str, tuple[float, int]] = field(default_factory=dict)  # and how many values each is of

    def clear(self) -> None:
        super().clear()
        self._sums.clear()
        self.by_answer.clear()

    def add(self, figure: str, values: Tensor) -> None:
        """values: [any number] that a figure is the mean of."""
        total, count = self._sums.get(figure, (0.0, 0))
        self._sums[figure] = total + float(values.sum()), count + len(values)

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """The figures over all processes, but for those of no value."""
        if not self.figures:
            return {}
        own = [self._sums.get(figure, (0.0, 0)) for figure in self.figures]
        sums = accelerator.reduce(torch.tensor(own, dtype=torch.float64).to(accelerator.device)).tolist()
        return {
            figure: total / count for figure, (total, count) in zip(self.figures, sums, strict=True) if count
        }
