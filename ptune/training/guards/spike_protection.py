"""Spike protection: a gradient much longer than the last ones is shortened before it reaches the weights.

The rule is ZClip (Kumar et al. 2025, https://arxiv.org/abs/2504.02507) with its published constants. It keeps exponential
averages of the gradient norm's mean μ and variance σ². A norm with z = (norm - μ) / σ above 2.5 is cut to μ + 2.5² σ / z, so
that a longer spike leaves a shorter gradient, and the averages are fed with the cut norm. The first 25 norms are only
collected: their plain mean and variance start the averages. The norms are on the host already, so the rule costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_COLLECTED, _KEPT, _Z = 25, 0.97, 2.5


@dataclass(frozen=True)
class NormHistory:
    """The gradient norms so far: their number, and their mean and variance."""

    steps: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def limit(self, norm: float) -> float:
        """The norm to which a gradient of length `norm` is clipped; infinite if it is no spike."""
        if self.steps < _COLLECTED or norm <= self.mean:
            return math.inf
        deviation = math.sqrt(self.variance)
        if norm <= self.mean + _Z * deviation:
            return math.inf
        return self.mean + _Z**2 * deviation**2 / (norm - self.mean)

    def after(self, norm: float) -> NormHistory:
        """The history with one more norm, as measured."""
        if self.steps < _COLLECTED:  # plain mean and variance (Welford)
            steps = self.steps + 1
            off = norm - self.mean
            mean = self.mean + off / steps
            return NormHistory(steps, mean, self.variance + (off * (norm - mean) - self.variance) / steps)
        kept = min(norm, self.limit(norm))
        mean = _KEPT * self.mean + (1 - _KEPT) * kept
        return NormHistory(self.steps + 1, mean, _KEPT * self.variance + (1 - _KEPT) * (kept - mean) ** 2)
