"""Rows with a predictor's outputs, in the shape that figures are computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.labels import Labels
from ptune.codecs.tag_marks import OUTSIDE
from ptune.data.shapes.labelled import LabelledRow
from ptune.evaluation.classification import multi, regression, single, tags
from ptune.evaluation.classification.results import Measured

Predictor: TypeAlias = Callable[[Sequence[LabelledRow], Callable[[int], None]], list[NDArray[Any]]]
"""Rows, and whom to tell how many more are done -> logits of each row: [labels], or [words, labels]."""


def indices(row: LabelledRow) -> tuple[int, ...]:
    """Indices of a row's labels, or of its words' tags."""
    label = row.label
    assert isinstance(label, tuple)
    return label


@dataclass(frozen=True)
class Outcome:
    """One side's predictions, row by row. Words that were cut off count as tagged O."""

    labels: Labels
    rows: Sequence[LabelledRow]
    scores: list[NDArray[Any]]  # per row: probabilities (or numbers) [labels], or [words, labels]

    @classmethod
    def of_logits(
        cls, labels: Labels, rows: Sequence[LabelledRow], logits: Sequence[NDArray[Any]]
    ) -> Outcome:
        """Makes an outcome from a predictor's logits."""
        return cls(labels, rows, [labels.scores(np.asarray(one)) for one in logits])

    @cached_property
    def table(self) -> NDArray[Any]:
        """[rows, labels] scores; not for tags, whose rows differ in length."""
        return np.stack(self.scores)

    @cached_property
    def gold(self) -> list[Any]:
        """Per row: a label's name, a list of names, a number, or a list of tags."""
        return [self._named(row.label) for row in self.rows]

    @cached_property
    def predicted(self) -> list[Any]:
        """Per row: the prediction, in the form of `gold`."""
        names, problem = self.labels.names, self.labels.problem
        if problem == "single":
            return [names[at] for at in self.table.argmax(axis=1)]
        if problem == "multi":
            return [[names[at] for at in np.flatnonzero(row)] for row in multi.predicted(self.table)]
        if problem == "regression":
            return [float(row[0]) for row in self.table]
        return [
            [*(names[at] for at in scores.argmax(axis=-1)), *[OUTSIDE] * (len(row.input) - len(scores))]
            for row, scores in zip(self.rows, self.scores, strict=True)
        ]

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """[rows] confidence in the prediction: the lowest of several labels or tags. Not for numbers."""
        problem = self.labels.problem
        if problem == "single":
            return self.table.max(axis=1).astype(np.float64)
        if problem == "multi":
            return np.maximum(self.table, 1 - self.table).min(axis=1).astype(np.float64)
        if problem == "regression":
            return np.full(len(self.rows), np.nan)
        return np.array([one.max(axis=-1).min() if len(one) else 0.0 for one in self.scores])

    @property
    def cut_off(self) -> int:
        """Number of words without a prediction."""
        if self.labels.problem != "tags":
            return 0
        return sum(len(row.input) - len(scores) for row, scores in zip(self.rows, self.scores, strict=True))

    def measure(self, seed: int = 0) -> Measured:
        """Computes all figures."""
        names, problem = self.labels.names, self.labels.problem
        if problem == "single":
            return single.measure(names, np.array([row.label for row in self.rows]), self.table, seed)
        if problem == "multi":
            return multi.measure(names, self.present, self.table, seed)
        if problem == "regression":
            return regression.measure(np.array(self.gold), self.table[:, 0], seed)
        return tags.measure(self.gold, self.predicted, seed)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """[rows, labels]: whether a row has a label."""
        has = np.zeros((len(self.rows), len(self.labels)), bool)
        for row, at in zip(has, self.rows, strict=True):
            row[list(indices(at))] = True
        return has

    def part(self, chosen: Sequence[int]) -> Outcome:
        """The outcome of some of the rows."""
        return Outcome(self.labels, [self.rows[at] for at in chosen], [self.scores[at] for at in chosen])

    def _named(self, label: Any) -> Any:
        names, problem = self.labels.names, self.labels.problem
        if problem == "single":
            return names[label]
        return float(label) if problem == "regression" else [names[at] for at in label]
