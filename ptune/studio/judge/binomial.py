"""How sure a share of votes is: the exact binomial interval and test. Own code, since the page has no scipy."""

from __future__ import annotations

import math
from collections.abc import Callable

HALVINGS = 60  # of the interval that a bound is looked for in: to the last bit of a double


def interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share (Biometrika 1934). No trials: (0, 1)."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is no share")
    miss = (1 - level) / 2
    low = 0.0 if successes == 0 else _root(lambda p: _at_most(trials - successes, trials, 1 - p) - miss)
    high = 1.0 if successes == trials else _root(lambda p: miss - _at_most(successes, trials, p))
    return low, high


def p_value(successes: int, trials: int) -> float:
    """Two-sided exact test of a share of one half (the sign test)."""
    return min(1.0, 2 * _at_most(min(successes, trials - successes), trials, 0.5))


def _at_most(successes: int, trials: int, share: float) -> float:
    """P(X ≤ successes) of a binomial distribution."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return float(successes >= trials)
    logs = (
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(share) + (trials - k) * math.log1p(-share)
        for k in range(successes + 1)
    )  # fmt: skip
    return math.fsum(map(math.exp, logs))


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises from below 0 to above it between 0 and 1 is 0."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
