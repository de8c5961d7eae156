"""95 % intervals by the bootstrap over rows (Efron 1979), percentile method, seeded; of shares of rows the exact ones.

A resample is stored as how often each row was drawn: `Counts`, [resamples, rows]. A statistic maps counts to one value
per resample, so that sums over rows become one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation import binomial

RESAMPLES = 1000
_CHUNK = 4_000_000  # counts held at once
_ROUNDING = 1e-6  # relative: float32 sums of the same rows in another order

Counts: TypeAlias = NDArray[np.float32]
Values: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Counts], dict[str, Values]]
Interval: TypeAlias = tuple[float, float]


def resampled(rows: int, statistic: Statistic, seed: int = 0) -> dict[str, Values]:
    """Returns each value of `statistic` by name, [RESAMPLES]; the same seed draws the same rows."""
    chance, parts_of = np.random.default_rng(seed), dict[str, list[Values]]()
    step = max(1, min(RESAMPLES, _CHUNK // max(rows, 1)))
    for start in range(0, RESAMPLES, step):
        counts = np.empty((min(step, RESAMPLES - start), rows), np.float32)
        for row in counts:
            row[:] = np.bincount(chance.integers(0, rows, rows), minlength=rows)
        for name, values in statistic(counts).items():
            parts_of.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in parts_of.items()}


def intervals(rows: int, statistic: Statistic, seed: int = 0) -> dict[str, Interval]:
    """Name -> (2.5 %, 97.5 %) percentile. Resamples without a finite value (one class only) are skipped.

    A figure that is the same in nearly every resample, as where each row is right, has none: such rows do not say how it varies.
    """
    ranges = {}
    for name, values in resampled(rows, statistic, seed).items():
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        low, high = map(float, np.percentile(finite, [2.5, 97.5]))
        if high - low > _ROUNDING * max(1.0, abs(high)):
            ranges[name] = (low, high)
    return ranges


def mean(counts: Counts, values: NDArray[Any]) -> Values:
    """[resamples, rows] counts, [rows] values -> [resamples] means."""
    return (counts @ values.astype(np.float32)).astype(np.float64) / counts.sum(axis=1, dtype=np.float64)


def means(values: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, Any]]:
    """Each row of values, [rows], by name -> its mean with its interval or None, in JSON types."""
    ranges = intervals_of_means(values)
    return {
        name: {"value": float(of.mean()), "interval": in_json(ranges.get(name))}
        for name, of in values.items()
    }


def intervals_of_means(values: Mapping[str, NDArray[Any]], seed: int = 0) -> dict[str, Interval]:
    """Name -> the interval of the mean of values, [rows]. The mean of nothing but zeros and ones is a share of rows."""
    rows = len(next(iter(values.values())))
    shares = {name: binomial.of_rows(of) for name, of in values.items() if np.isin(of, (0, 1)).all()}
    others = {name: of for name, of in values.items() if name not in shares}
    if not others:
        return shares
    ranges = intervals(rows, lambda counts: {name: mean(counts, of) for name, of in others.items()}, seed)
    return {name: (shares | ranges)[name] for name in values if name in shares or name in ranges}


def in_json(interval: Interval | None) -> list[float] | None:
    """An interval in JSON types."""
    return None if interval is None else list(interval)


def sums(counts: Counts, values: NDArray[Any]) -> Values:
    """[resamples, rows] counts, [rows, columns] values -> [resamples, columns] sums."""
    return (counts @ values.astype(np.float32)).astype(np.float64)


def share(above: Values, below: Values) -> Values:
    """above / below, or 0 where below is 0, as in scikit-learn and seqeval."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)
