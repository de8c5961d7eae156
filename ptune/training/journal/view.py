"""The display while training: a line with the loss and its curve, and a line with the other metrics."""

from __future__ import annotations

import math
import resource
import sys

import torch

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 16
_SMOOTHING = 0.9
_OF_ANSWERS = {"answer_tokens": ".2g", "drift": ".2g", "ratio": ".4g", "clipped": ".2g"}  # that were sampled


class View:
    """Collects the metrics of each step and formats the two texts that Progress shows."""

    def __init__(self, device: torch.device, measure: str = "loss") -> None:
        """measure: what `see` is told of."""
        self._device, self._measure = device, measure
        self._smooth: float | None = None
        self._course: list[float] = []  # the smoothed loss at evenly spaced steps
        self._every = 1
        self._seen = 0

    def see(self, loss: float) -> None:
        """Records the loss, or the reward, of one more step."""
        before = loss if self._smooth is None else self._smooth
        self._smooth = _SMOOTHING * before + (1 - _SMOOTHING) * loss
        if self._seen % self._every == 0:
            self._course.append(self._smooth)
        self._seen += 1
        if len(self._course) >= 8 * _WIDTH:  # bounds the memory of a long run
            self._course, self._every = self._course[::2], 2 * self._every

    def loss(self, *, drawn: bool) -> str:
        """The smoothed loss, 'loss 2.31 █▆▄▃▂▁'. drawn: with its curve from the first step on."""
        text = "" if self._smooth is None else f"{self._measure} {self._smooth:.4g}"
        return f"{text} {sparkline(self._course)}".rstrip() if drawn else text

    def details(self, latest: dict[str, float]) -> str:
        """The other metrics: 'validation 2.40, lr 0.0005, gradient 0.52, 1,234 tokens/s, 1.9 GB'.

        latest: see `Journal.latest`.
        """
        sign = 1 if self._measure == "loss" else -1  # the loss of a reward is less the reward
        held = latest.get("validation_loss")
        parts = [] if held is None else [f"validation {sign * held:.4g}"]
        parts += [f"{name} {latest[name]:{form}}" for name, form in _OF_ANSWERS.items() if name in latest]
        parts += [f"lr {latest['lr']:.2g}", f"gradient {latest['grad_norm']:.2g}"]
        rates = [name for name in latest if name.endswith("_per_s")]
        parts += [f"{latest[name]:,.0f} {name.removesuffix('_per_s')}/s" for name in rates]
        return ", ".join([*parts, f"{peak_bytes(self._device) / 1e9:.1f} GB"])


def sparkline(values: list[float], width: int = _WIDTH) -> str:
    """At most `width` bars, scaled from the smallest value to the largest; '' for fewer than two values."""
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    chosen = [values[round(place * (len(values) - 1) / (count - 1))] for place in range(count)]
    if math.isinf(max(chosen) - min(chosen)):
        chosen = [value / 2 for value in chosen]
    low, span = min(chosen), max(chosen) - min(chosen)
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1)) if span else 0] for value in chosen)


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process: on the GPU, or its resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
