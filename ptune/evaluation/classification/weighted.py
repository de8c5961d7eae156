"""Rank statistics of many resamples at once; point figures come from scikit-learn and scipy.

Rows are sorted once; each resample is then a cumulative sum over groups of equal values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation.classification.bootstrap import Counts, Values, share


def _by_value(counts: Counts, values: NDArray[Any]) -> tuple[Values, NDArray[Any]]:
    """Returns the counts of each distinct value in rising order, [resamples, groups], and each row's group, [rows]."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    return np.add.reduceat(counts[:, order], starts, axis=1, dtype=np.float64), group


def roc_auc(counts: Counts, positive: NDArray[np.bool_], scores: NDArray[Any]) -> Values:
    """Area under the ROC curve; NaN for a resample with one class only."""
    above, _ = _by_value(counts * positive, scores)
    below, _ = _by_value(counts * ~positive, scores)
    lower = np.cumsum(below, axis=1) - below / 2  # negatives with lower scores; ties count half
    pairs = above.sum(axis=1) * below.sum(axis=1)
    return np.divide((above * lower).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def average_precision(counts: Counts, positive: NDArray[np.bool_], scores: NDArray[Any]) -> Values:
    """Σ (recall step × precision) from the highest score down; NaN for a resample without positives."""
    right, _ = _by_value(counts * positive, -scores)
    every, _ = _by_value(counts, -scores)
    precision = share(np.cumsum(right, axis=1), np.cumsum(every, axis=1))
    total = right.sum(axis=1)
    return np.divide((right * precision).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def pearson(counts: Counts, one: Values, other: Values) -> Values:
    """Correlation of two columns, [rows] each, or [resamples, rows] if they depend on the resample."""
    total = counts.sum(axis=1, dtype=np.float64, keepdims=True)

    def centred(values: Values) -> Values:
        return np.asarray(values - (counts * values).sum(axis=1, keepdims=True) / total)

    a, b = centred(one), centred(other)
    joint = (counts * a * b).sum(axis=1)
    spread = np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))
    return np.divide(joint, spread, out=np.full(len(joint), np.nan), where=spread > 0)


def spearman(counts: Counts, one: Values, other: Values) -> Values:
    """Pearson's correlation of the ranks within each resample; ties get their mean rank."""
    return pearson(counts, _ranks(counts, one), _ranks(counts, other))


def _ranks(counts: Counts, values: Values) -> Values:
    """[resamples, rows] mean ranks."""
    every, group = _by_value(counts, values)
    return (np.cumsum(every, axis=1) - every / 2 + 0.5)[:, group]
