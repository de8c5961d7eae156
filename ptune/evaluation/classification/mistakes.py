"""The worst errors: rows where the prediction is wrong and the model the surest."""

from __future__ import annotations

import numpy as np

from ptune.evaluation.classification.outcome import Outcome

SHOWN = 20


def worst(outcome: Outcome, most: int = SHOWN) -> list[int]:
    """Places of wrong rows, the worst first: by confidence, of numbers by their error, of tags by how many are wrong."""
    problem, count = outcome.labels.problem, len(outcome.rows)
    if problem == "regression":
        badness = np.abs(np.array(outcome.gold) - outcome.table[:, 0])
        wrong = badness > 0
    elif problem == "tags":
        badness, wrong = np.zeros(count), np.zeros(count, bool)
        for at, (gold, said) in enumerate(zip(outcome.gold, outcome.predicted, strict=True)):
            misses = [place for place, (a, b) in enumerate(zip(gold, said, strict=True)) if a != b]
            wrong[at] = bool(misses)
            scores = outcome.scores[at]
            badness[at] = sum(float(scores[place].max()) if place < len(scores) else 1.0 for place in misses)
    else:
        wrong = np.array([a != b for a, b in zip(outcome.gold, outcome.predicted, strict=True)])
        badness = outcome.confidence
    places = np.flatnonzero(wrong)
    return [int(at) for at in places[np.argsort(-badness[places], kind="stable")][:most]]
