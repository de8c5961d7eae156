"""Figures of regression. Point figures come from scikit-learn and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation.classification import weighted
from ptune.evaluation.classification.bootstrap import Counts, Statistic, Values, intervals, mean
from ptune.evaluation.classification.results import Measured


def measure(gold: NDArray[Any], predicted: NDArray[Any], seed: int = 0) -> Measured:
    """Measures [rows] numbers against [rows]. Correlations are absent if all numbers of a side are equal."""
    from scipy import stats
    from sklearn import metrics as sk

    figures = {
        "mae": sk.mean_absolute_error(gold, predicted),
        "rmse": sk.root_mean_squared_error(gold, predicted),
    }
    if len(gold) > 1 and np.ptp(gold) > 0:
        figures["r2"] = sk.r2_score(gold, predicted)
        if np.ptp(predicted) > 0:
            figures["pearson"] = stats.pearsonr(gold, predicted).statistic
            figures["spearman"] = stats.spearmanr(gold, predicted).statistic
    ranges = intervals(len(gold), of_counts(gold, predicted), seed)
    return Measured(
        {name: float(value) for name, value in figures.items()},
        {name: value for name, value in ranges.items() if name in figures},
    )


def of_counts(gold: NDArray[Any], predicted: NDArray[Any]) -> Statistic:
    """Returns the statistic that computes the same figures for all resamples at once."""
    gold, predicted = gold.astype(np.float64), predicted.astype(np.float64)
    error, centred = predicted - gold, gold - gold.mean()

    def statistic(counts: Counts) -> dict[str, Values]:
        squared = mean(counts, error**2)
        spread = mean(counts, centred**2) - mean(counts, centred) ** 2
        return {
            "mae": mean(counts, np.abs(error)),
            "rmse": np.sqrt(squared),
            "r2": 1 - np.divide(squared, spread, out=np.full(len(spread), np.nan), where=spread > 1e-12),
            "pearson": weighted.pearson(counts, gold, predicted),
            "spearman": weighted.spearman(counts, gold, predicted),
        }

    return statistic
