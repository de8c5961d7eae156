"""Figures of multi-label classification. Point figures come from scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation import binomial
from ptune.evaluation.classification import weighted
from ptune.evaluation.classification.bootstrap import Counts, Statistic, Values, intervals, mean, share, sums
from ptune.evaluation.classification.results import Measured
from ptune.evaluation.classification.single import class_intervals

THRESHOLD = 0.5  # a label is predicted from this probability on


def predicted(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """[rows, labels] probabilities -> which labels are predicted."""
    return scores >= THRESHOLD


def indicators(labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[rows, labels] with one more, which no row has: scikit-learn takes a single column for two classes, and "none" for one."""
    return np.pad(labels, ((0, 0), (0, 1)))


def measure(names: tuple[str, ...], gold: NDArray[np.bool_], scores: NDArray[Any], seed: int = 0) -> Measured:
    """`gold` and `scores` [rows, labels]. Average precision is the macro average over labels that occur."""
    from sklearn import metrics as sk

    labelled, present = predicted(scores), gold.any(axis=0)
    both, every = (indicators(gold), indicators(labelled)), range(len(names))
    figures = {"subset_accuracy": sk.accuracy_score(*both)}
    for kind in ("micro", "macro"):
        values = sk.precision_recall_fscore_support(*both, labels=every, average=kind, zero_division=0)
        figures |= {
            f"{name}_{kind}": value
            for name, value in zip(("precision", "recall", "f1"), values, strict=False)
        }
    if present.any():
        figures["average_precision"] = sk.average_precision_score(
            gold[:, present].astype(int), scores[:, present], average="macro"
        )
    per_label = sk.precision_recall_fscore_support(*both, labels=every, zero_division=0)
    classes = {
        name: dict(zip(("precision", "recall", "f1", "support"), map(float, values), strict=True))
        for name, *values in zip(names, *per_label, strict=True)
    }
    for at in np.flatnonzero(present):
        classes[names[at]]["average_precision"] = float(
            sk.average_precision_score(gold[:, at], scores[:, at])
        )
    ranges = intervals(len(gold), of_counts(gold, scores), seed)
    ranges["subset_accuracy"] = binomial.of_rows((labelled == gold).all(axis=1))
    details = {"class_intervals": class_intervals(names, gold, labelled)}
    return Measured({name: float(value) for name, value in figures.items()}, ranges, classes, details)


def of_counts(gold: NDArray[np.bool_], scores: NDArray[Any]) -> Statistic:
    """Returns the statistic that computes the same figures for all resamples at once."""
    labelled = predicted(scores)
    exact = (labelled == gold).all(axis=1)

    def statistic(counts: Counts) -> dict[str, Values]:
        right, is_gold, is_predicted = (
            sums(counts, labelled & gold),
            sums(counts, gold),
            sums(counts, labelled),
        )
        figures = {"subset_accuracy": mean(counts, exact)}
        for name, above, below in (
            ("precision", right, is_predicted),
            ("recall", right, is_gold),
            ("f1", 2 * right, is_predicted + is_gold),
        ):
            figures[f"{name}_micro"] = share(above.sum(axis=1), below.sum(axis=1))
            figures[f"{name}_macro"] = share(above, below).mean(axis=1)
        each = [
            weighted.average_precision(counts, gold[:, at], scores[:, at])
            for at in np.flatnonzero(gold.any(axis=0))
        ]
        if each:
            stacked = np.stack(each)  # a resample's mean is over the labels in it
            finite = np.isfinite(stacked)
            figures["average_precision"] = share(
                np.where(finite, stacked, 0).sum(axis=0), finite.sum(axis=0).astype(float)
            )
        return figures

    return statistic
