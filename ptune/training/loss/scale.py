"""The factor on the loss of a model in float16, so that small gradients do not vanish and large ones are seen to overflow.

float16 ends at 65,504 and loses numbers below 6e-8, which gradients of activations are. The loss is multiplied by a power of
two, and the gradients of the trained weights, which are float32, are divided by it again: to the bit the same, unless the
factor was too large. Then a gradient is infinite, and the step is computed again with half the factor. So no step is left
out, and schedule, accumulation and the history of norms are those of any other training. After 2,000 steps without that
the factor is doubled.

Source: Mixed Precision Training (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740), with steps repeated instead of
left out.
"""

from __future__ import annotations

from dataclasses import dataclass

_START, _LARGEST, _STEPS = 2.0**16, 2.0**24, 2000


@dataclass(frozen=True)
class LossScale:
    """The factor of the next step, and the number of steps since it changed."""

    factor: float = _START
    steps: int = 0

    def after(self, used: float) -> LossScale:
        """The scale after a step that needed the factor `used`, at most this one's."""
        if used < self.factor:
            return LossScale(used)
        if self.steps + 1 < _STEPS or self.factor >= _LARGEST:
            return LossScale(self.factor, self.steps + 1)
        return LossScale(2 * self.factor)
