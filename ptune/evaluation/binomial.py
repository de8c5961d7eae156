"""How sure a share of rows or votes is: the exact binomial interval and test.

Where no row is wrong, every resample of the rows is right, too, so the bootstrap would be certain; 7 of 7 leaves the true
share between 59 % and 100 %. Own code, since neither the page nor a chat's evaluation has scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

HALVINGS = 60  # of the interval that a bound is looked for in: to the last bit of a double


def interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share (Biometrika 1934). No trials: (0, 1)."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is no share")
    miss = (1 - level) / 2
    low = 0.0 if successes == 0 else _root(lambda p: _at_most(trials - successes, trials, 1 - p) - miss)
    high = 1.0 if successes == trials else _root(lambda p: miss - _at_most(successes, trials, p))
    return low, high


def of_rows(right: NDArray[Any]) -> tuple[float, float]:
    """The 95 % interval of the share of rows that are right, [rows] of yes and no."""
    return interval(int(np.count_nonzero(right)), len(right))


def p_value(successes: int, trials: int) -> float:
    """Two-sided exact test of a share of one half (the sign test)."""
    return min(1.0, 2 * _at_most(min(successes, trials - successes), trials, 0.5))


def _at_most(successes: int, trials: int, share: float) -> float:
    """P(X ≤ successes) of a binomial distribution."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return float(successes >= trials)
    k = np.arange(successes + 1)
    factorials = _log_factorials(trials)
    ways = factorials[trials] - factorials[k] - factorials[trials - k]
    return float(np.exp(ways + k * math.log(share) + (trials - k) * math.log1p(-share)).sum())


@lru_cache(maxsize=8)
def _log_factorials(most: int) -> NDArray[np.float64]:
    """log n! of each n from 0 to `most`."""
    return np.array([math.lgamma(n + 1) for n in range(most + 1)])


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises from below 0 to above it between 0 and 1 is 0."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
