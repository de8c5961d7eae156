"""What the mean of a stream of values is, with an error that holds however often somebody looks.

A usual interval, looked at after each value, is wrong sooner or later. Here each candidate for the mean is bet against: the
bets' capital is a martingale if the candidate is the mean, and so hardly ever grows 1/error-fold (Ville's inequality). That
is the hedged capital process of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B
2024, theorem 3, with their predictable plug-in bets, each side with an error of its own. It asks for nothing but values
between known bounds and one mean: no variance is known beforehand as for sub-Gaussian sequences (Howard et al., Annals of
Statistics 2021), and the error holds from the first value on, unlike that of asymptotic sequences (Waudby-Smith et al., Annals
of Statistics 2024). Beside the closed form of the same paper, its theorem 2, the bets may grow where values differ little, as
paired losses do: certainty then takes a fraction of the values.
"""

from __future__ import annotations

import math

import numpy as np

_CANDIDATES = np.linspace(0.0, 1.0, 1001)
_MOST = 0.75  # of the capital that one value can lose, as in the paper
_MOST_ABOVE = _MOST / np.maximum(_CANDIDATES, 1e-9)  # what may be bet for a mean above each
_MOST_BELOW = _MOST_ABOVE[::-1]


class BoundedMean:
    """The mean of values from `low` to `high`, and bounds that only ever narrow.

    error: the chance that the mean is ever at `lower` or below; and as much that it is ever at `upper` or above.
    """

    def __init__(self, error: float, low: float = 0.0, high: float = 1.0) -> None:
        self.count = 0
        self.lower, self.upper = low, high
        self._low, self._width = low, high - low
        self._wanted = math.log(1 / error)
        self._sum = 0.0  # of values as parts of the width
        self._squares = 0.25  # of the distances from the running means, begun as if there were one value
        # Logarithm of the capital of who bets that the mean is above, or below, each candidate.
        self._above, self._below = np.zeros_like(_CANDIDATES), np.zeros_like(_CANDIDATES)

    @property
    def mean(self) -> float | None:
        """None before the first value."""
        return self._low + self._width * self._sum / self.count if self.count else None

    @property
    def certain(self) -> bool:
        """False once the bounds have crossed: then the values have no one mean, and nothing is certain."""
        return self.lower < self.upper

    def described(self) -> dict[str, float | None]:
        """For an operator to look at."""
        return {"mean": self.mean, "lower": self.lower, "upper": self.upper}

    def add(self, value: float) -> None:
        """value: from `low` to `high`."""
        part = (value - self._low) / self._width
        variance = self._squares / (self.count + 1)
        self.count += 1
        bet = math.sqrt(2 * self._wanted / (variance * self.count * math.log(1 + self.count)))
        apart = part - _CANDIDATES
        self._above += np.log1p(np.minimum(bet, _MOST_ABOVE) * apart)
        self._below += np.log1p(-np.minimum(bet, _MOST_BELOW) * apart)
        self._sum += part
        self._squares += (part - (0.5 + self._sum) / (self.count + 1)) ** 2
        # The capital falls from candidate to candidate on one side and grows on the other, so those refuted are neighbours.
        above, below = (int((capital >= self._wanted).sum()) for capital in (self._above, self._below))
        if above:
            self.lower = max(self.lower, self._value(above - 1))
        if below:
            self.upper = min(self.upper, self._value(-below))

    def _value(self, candidate: int) -> float:
        """A candidate in the units of the values, rounded so that 0.02 is what somebody writes as 0.02."""
        return round(self._low + self._width * float(_CANDIDATES[candidate]), 9)
