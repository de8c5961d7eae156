"""The worst errors: wrong predictions of which the model was surest."""

from __future__ import annotations

import numpy as np

from ptune.evaluation.classification.outcome import Outcome

SHOWN = 20


def worst(outcome: Outcome, most: int = SHOWN) -> list[int]:
    """Indices of wrong rows, the worst first: by confidence; numbers by their error; tags by how many are wrong."""
    problem, count = outcome.labels.problem, len(outcome.rows)
    if problem == "regression":
        badness = np.abs(np.array(outcome.gold) - outcome.table[:, 0])
        wrong = badness > 0
    elif problem == "tags":
        badness, wrong = np.zeros(count), np.zeros(count, bool)
        for at, (gold, predicted) in enumerate(zip(outcome.gold, outcome.predicted, strict=True)):
            misses = [place for place, (a, b) in enumerate(zip(gold, predicted, strict=True)) if a != b]
            wrong[at] = bool(misses)
            scores = outcome.scores[at]
            badness[at] = sum(float(scores[place].max()) if place < len(scores) else 1.0 for place in misses)
    else:
        wrong = np.array([a != b for a, b in zip(outcome.gold, outcome.predicted, strict=True)])
        badness = outcome.confidence
    places = np.flatnonzero(wrong)
    return [int(at) for at in places[np.argsort(-badness[places], kind="stable")][:most]]
