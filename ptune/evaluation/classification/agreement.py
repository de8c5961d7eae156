"""Agreement of two sides' predictions for the same rows: share of equal labels, largest difference."""

from __future__ import annotations

import numpy as np

from ptune.evaluation.classification.outcome import Outcome


def agreement(one: Outcome, other: Outcome) -> dict[str, float]:
    """Returns `labels`, the share of equal labels (per word for tags), and `max_abs_p`, the largest difference.

    The difference is between probabilities; for a regression between its numbers, and `labels` is absent.
    """
    pairs = [
        (a[: min(len(a), len(b))], b[: min(len(a), len(b))])
        for a, b in zip(one.scores, other.scores, strict=True)
    ]
    difference = {"max_abs_p": float(max((np.abs(a - b).max() for a, b in pairs if a.size), default=0.0))}
    if one.labels.problem == "regression":
        return difference
    if one.labels.problem == "tags":
        same = [
            a == b
            for x, y in zip(one.predicted, other.predicted, strict=True)
            for a, b in zip(x, y, strict=True)
        ]
    else:
        same = [a == b for a, b in zip(one.predicted, other.predicted, strict=True)]
    return {"labels": float(np.mean(same)), **difference}
