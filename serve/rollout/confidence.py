"""What the mean of a stream of scores is, with an error that holds however often somebody looks.

The empirical Bernstein confidence sequence with predictable plug-ins: Waudby-Smith and Ramdas, "Estimating means of bounded
random variables by betting", JRSS B 2024, theorem 2. A usual interval, looked at after each score, is wrong sooner or later;
of this one the chance that the mean is ever outside, at any time, is at most `error`.
"""

from __future__ import annotations

import math

_MOST = 0.5  # of a bet, as the paper has it


class MeanOfScores:
    """The mean of scores from 0 to 1, and bounds that only ever narrow."""

    def __init__(self, error: float) -> None:
        self.count = 0
        self.lower, self.upper = 0.0, 1.0
        self._log = math.log(2 / error)
        self._sum = 0.0
        self._squares = 0.25  # of the distances from the running means, begun as if there were one score
        self._bets = self._bet_sum = self._cost = 0.0

    @property
    def mean(self) -> float | None:
        """None before the first score."""
        return self._sum / self.count if self.count else None

    def described(self) -> dict[str, float | int | None]:
        """For an operator to look at."""
        return {"scores": self.count, "mean": self.mean, "lower": self.lower, "upper": self.upper}

    def add(self, score: float) -> None:
        """score: from 0 to 1."""
        before = (0.5 + self._sum) / (self.count + 1)
        variance = self._squares / (self.count + 1)
        self.count += 1
        bet = min(math.sqrt(2 * self._log / (variance * self.count * math.log(1 + self.count))), _MOST)
        self._sum += score
        self._bets += bet
        self._bet_sum += bet * score
        self._cost += (score - before) ** 2 * (-math.log1p(-bet) - bet)
        now = (0.5 + self._sum) / (self.count + 1)
        self._squares += (score - now) ** 2
        middle, half = self._bet_sum / self._bets, (self._log + self._cost) / self._bets
        # Should they cross, the scores' mean has moved; then nothing is certain and nothing is decided.
        self.lower, self.upper = max(self.lower, middle - half), min(self.upper, middle + half)
