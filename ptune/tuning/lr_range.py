"""Learning-rate range test (Smith 2017, https://arxiv.org/abs/1506.01186): how the loss goes while the rate grows.

A short training whose learning rate rises from step to step, by the same factor each, until the loss leaves its way. What
it trains is thrown away. The suggestion is the rate at which the smoothed loss falls fastest: lower ones waste steps,
and where the loss is lowest already it is about to turn.
"""

from __future__ import annotations

import json
import math
import tempfile
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
_BLOWN_UP = 2.0  # times the lowest smoothed loss so far (and one nat more): the rest would teach nothing
_MARGIN = 5  # points at either end that are no suggestion: the ramp's own beginning, and the turn


@dataclass(frozen=True)
class RangeTest:
    """Learning rate and loss of each step, and what to take."""

    points: tuple[tuple[float, float], ...]  # (rate, loss)
    suggestion: float | None

    @property
    def smooth(self) -> list[float]:
        return smoothed([loss for _, loss in self.points])

    @property
    def told(self) -> str:
        """One line."""
        if self.suggestion is None:
            return "no learning rate made the loss fall: is there anything to learn, does training reach a weight?"
        low, high = self.points[0][0], self.points[-1][0]
        return f"suggested learning rate: {self.suggestion:.1e} ({len(self.points)} steps from {low:.0e} to {high:.1e})"


def range_test(recipe: Recipe, steps: int = 100) -> RangeTest:
    """Trains `recipe` for at most `steps` steps, whose rates grow from 1e-7 to 1, and forgets what it trained.

    Raises: PtuneError, as `ptune.fine_tune.train`.
    """
    rates = [LOW * (HIGH / LOW) ** (step / (steps - 1)) for step in range(steps)]
    with tempfile.TemporaryDirectory(prefix="ptune-lr-range-") as folder:
        losses = _losses(recipe, rates, Path(folder))
    points = tuple(zip(rates, losses, strict=False))
    return RangeTest(points, suggested(points))


def suggested(points: Sequence[tuple[float, float]]) -> float | None:
    """The rate where the smoothed loss falls fastest before it is lowest; None where it does not fall."""
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
    """Exponential moving average, without the bias of its beginning."""
    out, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        out.append(mean / (1 - _SMOOTHING**count))
    return out


def write(found: RangeTest, recipe: Recipe, folder: Path) -> Path:
    """Writes lr-range.json and lr-range.html; returns the latter's place."""
    document = {"recipe": recipe.document(), "suggestion": found.suggestion, "points": found.points}
    write_json(folder / "lr-range.json", json.loads(json.dumps(document)))
    place = folder / "lr-range.html"
    write_text(place, page(f"{recipe.name}: learning rate", [f"<p>{found.told}</p>", _curve(found)]))
    return place


def _losses(recipe: Recipe, rates: Sequence[float], folder: Path) -> list[float]:
    """The loss of each step's batch before the step, until it blows up."""
    from ptune.config.tasks import task_of
    from ptune.formats.run import Run
    from ptune.kinds import imported
    from ptune.training.distributed import accelerator_for
    from ptune.training.loop import Job, optimizer_step
    from ptune.training.memory import memory_errors
    from ptune.training.order import Mixture, Order
    from ptune.training.preparation import applied, optimizer_for, resolved
    from ptune.training.work import Work

    run = Run(folder / "run")
    accelerator = accelerator_for(recipe, run.folder, None)
    recipe = resolved(recipe, accelerator)
    work: Work = imported(task_of(recipe.task).work)(recipe, run, accelerator, "")
    recipe = work.recipe
    base = work.load(accelerator.device)
    model = applied(recipe, base.model, base.new_tokens, base.head)
    losses: list[float] = []
    with memory_errors(recipe), work.objective(base.model, accelerator.device) as objective:
        prepared, optimizer = accelerator.prepare(model, optimizer_for(model, recipe.train))
        job = Job(
            train=recipe.train, accelerator=accelerator, model=prepared, optimizer=optimizer, objective=objective,
            examples=work.data.train, validation=(), journal=_Nowhere(), checkpoints=_Nowhere(),  # type: ignore[arg-type]
        )  # fmt: skip
        mixture = Mixture(work.data.parts, recipe.data.weights) if recipe.data.weights else None
        order = Order(len(work.data.train), recipe.train.batch_size, recipe.train.seed, mixture)
        with Progress("learning-rate range", len(rates), delay_s=0.0) as bar:
            for step, rate in enumerate(rates):
                train = recipe.train.model_copy(update={"lr": rate, "schedule": "constant", "warmup": 0.0})
                batch = [work.data.train[index] for index in order.batch(step)]
                loss = _loss(replace(job, train=train), batch, step, len(rates), optimizer_step)
                if loss is None:
                    break
                losses.append(loss)
                bar.advance(note=f"lr {rate:.1e}, loss {loss:.4g}")
                course = smoothed(losses)
                if course[-1] > _BLOWN_UP * min(course) + 1:
                    break
    return losses


def _loss(job: Any, batch: Sequence[Any], step: int, steps: int, optimizer_step: Any) -> float | None:
    """The loss of one step; None where it, or the gradient, is no number any more."""
    from ptune.training.diagnosis import NotANumberError

    try:
        loss = float(optimizer_step(job, batch, step, steps))
    except NotANumberError:
        if step == 0:
            raise
        return None
    except PtuneError:
        raise
    return loss if math.isfinite(loss) else None


class _Nowhere:
    """A journal that keeps nothing."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}

    def write(self, step: int, **values: float | int) -> None:
        pass


def _curve(found: RangeTest) -> str:
    """Loss over the logarithm of the rate."""
    width, height, left, bottom = 720, 300, 60, 40
    smooth = found.smooth
    if len(smooth) < 2:
        return ""
    top = max(smooth[0], min(smooth)) * 1.3
    marks = ticks(min(min(smooth), *(loss for _, loss in found.points)), top, 5)
    first, last = (math.log10(found.points[at][0]) for at in (0, -1))

    def place(rate: float, loss: float) -> str:
        share = (min(loss, marks[-1]) - marks[0]) / (marks[-1] - marks[0])
        x = left + (math.log10(rate) - first) / (last - first) * (width - left - 12)
        return f"{x:.1f},{height - bottom - share * (height - bottom - 14):.1f}"

    parts = []
    for mark in marks:
        x, y = place(found.points[0][0], mark).split(",")
        parts.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{width - 12}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for decade in range(math.ceil(first), math.floor(last) + 1):
        x = place(10.0**decade, marks[0]).split(",")[0]
        parts.append(
            f'<text x="{x}" y="{height - bottom + 18}" text-anchor="middle">{10.0**decade:.0e}</text>'
        )
    rates = [rate for rate, _ in found.points]
    raw = " ".join(place(rate, loss) for rate, loss in found.points)
    line = " ".join(place(rate, loss) for rate, loss in zip(rates, smooth, strict=True))
    parts.append(f'<polyline class="second" style="opacity:.4" points="{raw}"/><polyline points="{line}"/>')
    if found.suggestion is not None:
        x, y = place(found.suggestion, smooth[rates.index(found.suggestion)]).split(",")
        parts.append(f'<circle class="kept" cx="{x}" cy="{y}" r="5"/>')
        parts.append(
            f'<text x="{x}" y="{float(y) - 10:.1f}" text-anchor="middle">{found.suggestion:.1e}</text>'
        )
    parts.append(f'<text x="{width - 12}" y="{height - 6}" text-anchor="end">learning rate</text>')
    return (
        "<figure><figcaption>Loss a target while the rate grows: each step, and smoothed</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="loss over learning rate">{"".join(parts)}</svg></figure>'
    )
