"""Learning-rate range test (Smith 2017, https://arxiv.org/abs/1506.01186): the loss while the learning rate grows.

A short training multiplies the learning rate by a constant factor each step until the loss blows up; the trained weights
are discarded. The suggestion is the rate at which the smoothed loss falls fastest: lower rates waste steps, and at the
lowest loss training is about to diverge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ptune.config.recipe import Recipe
from ptune.errors import PtuneError
from ptune.evaluation.curve import ticks
from ptune.formats.whole_write import write_json, write_text
from ptune.progress import Progress
from ptune.tuning.page import page

LOW, HIGH = 1e-7, 1.0
_SMOOTHING = 0.8
_BLOWN_UP = 2.0  # times the lowest smoothed loss so far, plus one nat: stop here
_MARGIN = 5  # points at the start of the ramp that are never suggested


@dataclass(frozen=True)
class RangeTest:
    """Learning rate and loss of each step, and the suggested rate."""

    points: tuple[tuple[float, float], ...]  # (rate, loss)
    suggestion: float | None

    @property
    def smooth(self) -> list[float]:
        return smoothed([loss for _, loss in self.points])

    @property
    def told(self) -> str:
        """The result in one line."""
        if self.suggestion is None:
            return "no learning rate made the loss fall: is there anything to learn, does training reach a weight?"
        low, high = self.points[0][0], self.points[-1][0]
        return f"suggested learning rate: {self.suggestion:.1e} ({len(self.points)} steps from {low:.0e} to {high:.1e})"


def range_test(recipe: Recipe, steps: int = 100) -> RangeTest:
    """Trains `recipe` for at most `steps` steps at rates from 1e-7 to 1, and discards the trained weights.

    Raises: PtuneError, like `ptune.fine_tune.train`.
    """
    rates = [LOW * (HIGH / LOW) ** (step / (steps - 1)) for step in range(steps)]
    losses = _losses(recipe, rates)
    points = tuple(zip(rates, losses, strict=False))
    return RangeTest(points, suggested(points))


def suggested(points: Sequence[tuple[float, float]]) -> float | None:
    """The rate at which the smoothed loss falls fastest before its minimum; None if it does not fall."""
    smooth = smoothed([loss for _, loss in points])
    if len(smooth) < 3:
        return None
    lowest = min(range(len(smooth)), key=smooth.__getitem__)
    falls = [after - before for before, after in pairwise(smooth)]
    inside = range(min(_MARGIN, max(lowest - 1, 0)), lowest)
    if not inside or smooth[lowest] >= smooth[0]:
        return None
    return points[min(inside, key=falls.__getitem__)][0]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential moving average with bias correction."""
    out, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        out.append(mean / (1 - _SMOOTHING**count))
    return out


def write(test: RangeTest, recipe: Recipe, folder: Path) -> Path:
    """Writes lr-range.json and lr-range.html; returns the path of the latter."""
    document = {"recipe": recipe.document(), "suggestion": test.suggestion, "points": test.points}
    write_json(folder / "lr-range.json", json.loads(json.dumps(document)))
    place = folder / "lr-range.html"
    write_text(place, page(f"{recipe.name}: learning rate", [f"<p>{test.told}</p>", _curve(test)]))
    return place


def _losses(recipe: Recipe, rates: Sequence[float]) -> list[float]:
    """The loss of each step's batch before its update, until the loss blows up."""
    from ptune.training.loop import optimizer_step
    from ptune.training.rehearsal import rehearsal

    losses: list[float] = []
    with rehearsal(recipe) as tried, Progress("learning-rate range", len(rates), delay_s=0.0) as bar:
        for step, rate in enumerate(rates):
            train = tried.recipe.train.model_copy(update={"lr": rate, "schedule": "constant", "warmup": 0.0})
            job = replace(tried.job, train=train)
            loss = _loss(job, tried.batch(step), step, len(rates), optimizer_step)
            if loss is None:
                break
            losses.append(loss)
            bar.advance(note=f"lr {rate:.1e}, loss {loss:.4g}")
            course = smoothed(losses)
            if course[-1] > _BLOWN_UP * min(course) + 1:
                break
    return losses


def _loss(job: Any, batch: Sequence[Any], step: int, steps: int, optimizer_step: Any) -> float | None:
    """The loss of one step; None if the loss or the gradient is infinite or NaN."""
    from ptune.training.guards.diagnosis import NotANumberError

    try:
        loss = float(optimizer_step(job, batch, step, steps))
    except NotANumberError:
        if step == 0:
            raise
        return None
    except PtuneError:
        raise
    return loss if math.isfinite(loss) else None


def _curve(test: RangeTest) -> str:
    """A plot of the loss over the logarithm of the rate."""
    width, height, left, bottom = 720, 300, 60, 40
    smooth = test.smooth
    if len(smooth) < 2:
        return ""
    top = max(smooth[0], min(smooth)) * 1.3
    marks = ticks(min(min(smooth), *(loss for _, loss in test.points)), top, 5)
    first, last = (math.log10(test.points[at][0]) for at in (0, -1))

    def place(rate: float, loss: float) -> str:
        share = (min(loss, marks[-1]) - marks[0]) / (marks[-1] - marks[0])
        x = left + (math.log10(rate) - first) / (last - first) * (width - left - 12)
        return f"{x:.1f},{height - bottom - share * (height - bottom - 14):.1f}"

    parts = []
    for mark in marks:
        x, y = place(test.points[0][0], mark).split(",")
        parts.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{width - 12}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for decade in range(math.ceil(first), math.floor(last) + 1):
        x = place(10.0**decade, marks[0]).split(",")[0]
        parts.append(
            f'<text x="{x}" y="{height - bottom + 18}" text-anchor="middle">{10.0**decade:.0e}</text>'
        )
    rates = [rate for rate, _ in test.points]
    raw = " ".join(place(rate, loss) for rate, loss in test.points)
    line = " ".join(place(rate, loss) for rate, loss in zip(rates, smooth, strict=True))
    parts.append(f'<polyline class="second" style="opacity:.4" points="{raw}"/><polyline points="{line}"/>')
    if test.suggestion is not None:
        x, y = place(test.suggestion, smooth[rates.index(test.suggestion)]).split(",")
        parts.append(f'<circle class="kept" cx="{x}" cy="{y}" r="5"/>')
        parts.append(
            f'<text x="{x}" y="{float(y) - 10:.1f}" text-anchor="middle">{test.suggestion:.1e}</text>'
        )
    parts.append(f'<text x="{width - 12}" y="{height - 6}" text-anchor="end">learning rate</text>')
    return (
        "<figure><figcaption>Loss per target while the rate grows: each step, and smoothed</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="loss over learning rate">{"".join(parts)}</svg></figure>'
    )
