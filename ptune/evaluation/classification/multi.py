"""Figures of a problem where any number of labels may fit a row. Point figures come from scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation.classification import weighted
from ptune.evaluation.classification.bootstrap import Counts, Statistic, Values, intervals, mean, share, sums
from ptune.evaluation.classification.results import Measured

THRESHOLD = 0.5  # a label is predicted from this probability on


def predicted(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """[rows, labels] probabilities -> which labels are predicted."""
    return scores >= THRESHOLD


def measure(names: tuple[str, ...], gold: NDArray[np.bool_], scores: NDArray[Any], seed: int = 0) -> Measured:
    """`gold` and `scores` [rows, labels]. Average precision is macro, over the labels that any row has."""
    from sklearn import metrics as sk

    said, present = predicted(scores), gold.any(axis=0)
    found = {"subset_accuracy": sk.accuracy_score(gold, said)}
    for kind in ("micro", "macro"):
        values = sk.precision_recall_fscore_support(gold, said, average=kind, zero_division=0)
        found |= {
            f"{name}_{kind}": value
            for name, value in zip(("precision", "recall", "f1"), values, strict=False)
        }
    if present.any():
        found["average_precision"] = sk.average_precision_score(
            gold[:, present].astype(int), scores[:, present], average="macro"
        )
    per_label = sk.precision_recall_fscore_support(gold, said, zero_division=0)
    classes = {
        name: dict(zip(("precision", "recall", "f1", "support"), map(float, values), strict=True))
        for name, *values in zip(names, *per_label, strict=True)
    }
    for at in np.flatnonzero(present):
        classes[names[at]]["average_precision"] = float(
            sk.average_precision_score(gold[:, at], scores[:, at])
        )
    ranges = intervals(len(gold), of_counts(gold, scores), seed)
    return Measured({name: float(value) for name, value in found.items()}, ranges, classes)


def of_counts(gold: NDArray[np.bool_], scores: NDArray[Any]) -> Statistic:
    """The same figures of resampled rows, all at once."""
    said = predicted(scores)
    exact = (said == gold).all(axis=1)

    def statistic(counts: Counts) -> dict[str, Values]:
        right, is_gold, is_said = sums(counts, said & gold), sums(counts, gold), sums(counts, said)
        found = {"subset_accuracy": mean(counts, exact)}
        for name, above, below in (
            ("precision", right, is_said),
            ("recall", right, is_gold),
            ("f1", 2 * right, is_said + is_gold),
        ):
            found[f"{name}_micro"] = share(above.sum(axis=1), below.sum(axis=1))
            found[f"{name}_macro"] = share(above, below).mean(axis=1)
        each = [
            weighted.average_precision(counts, gold[:, at], scores[:, at])
            for at in np.flatnonzero(gold.any(axis=0))
        ]
        if each:
            stacked = np.stack(each)  # a resample's mean is over the labels that it holds
            known = np.isfinite(stacked)
            found["average_precision"] = share(
                np.where(known, stacked, 0).sum(axis=0), known.sum(axis=0).astype(float)
            )
        return found

    return statistic
