"""Two sides' predictions of the same rows: how often they say the same, and how far apart they are at most."""

from __future__ import annotations

import numpy as np

from ptune.evaluation.classification.outcome import Outcome


def agreement(one: Outcome, other: Outcome) -> dict[str, float]:
    """`labels`: share of rows (of words, where words are tagged) with the same label; `max_abs_p`: largest difference.

    The difference is of probabilities; of a regression, of its numbers. A regression has no labels to agree on.
    """
    pairs = [
        (a[: min(len(a), len(b))], b[: min(len(a), len(b))])
        for a, b in zip(one.scores, other.scores, strict=True)
    ]
    found = {"max_abs_p": float(max((np.abs(a - b).max() for a, b in pairs if a.size), default=0.0))}
    if one.labels.problem == "regression":
        return found
    if one.labels.problem == "tags":
        same = [
            a == b
            for x, y in zip(one.predicted, other.predicted, strict=True)
            for a, b in zip(x, y, strict=True)
        ]
    else:
        same = [a == b for a, b in zip(one.predicted, other.predicted, strict=True)]
    return {"labels": float(np.mean(same)), **found}
