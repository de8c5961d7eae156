"""The trials of a search as parallel coordinates (Inselberg 1985, https://doi.org/10.1007/BF01898350): an axis for each field
and one for the metric, and a line across them for each trial. Inline SVG, without scripts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptune.tuning.plots import Scale, of_numbers, without_outliers
from ptune.tuning.space import Axis, Choice, Space, Value, parse, spelled

WIDTH, HEIGHT, A_PART = (
    720,
    320,
    150,
)  # pixels of the view box: at least, in all, and at least between two axes
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 56, 16


@dataclass(frozen=True)
class _Upright:
    """An axis: where it stands, what it is called, its marks."""

    x: float
    name: str
    scale: Scale
    words: tuple[str, ...] = ()  # of an axis of choices, from below

    def y(self, value: Value) -> float:
        at = float(self.words.index(spelled(value))) if self.words else float(value)
        share = min(max(self.scale.share(at), 0.0), 1.0)  # outliers are drawn at the edge
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def parallel(document: Mapping[str, Any]) -> str:
    """A <figure> of the trials in tune.json; empty if none has been validated.

    The best trial is marked; of the other finished ones, the better a trial is, the stronger its line. A trial that was pruned, or
    still runs, ends at its newest validation.
    """
    space = parse([f"{field}={values}" for field, values in document["space"].items()])
    trials = [one for one in document["trials"] if _height(one) is not None and {*space} <= {*one["params"]}]
    if not trials:
        return ""
    axes = _axes(space, document["metric"].replace("_", " "), [_known(one) for one in trials])
    width = axes[-1].x + RIGHT
    best = (document.get("best") or {}).get("trial")
    drawn = "".join(
        _line(one, axes, [*space], style, strength)
        for one, style, strength in _styles(trials, document, best)
    )
    ways = "lower is better" if document["direction"] == "minimize" else "higher is better"
    title = f"Each trial across its values to its {axes[-1].name} ({ways})"
    uprights = "".join(_upright(axis, at, len(axes)) for at, axis in enumerate(axes))
    return (
        f"<figure class=parallel><figcaption>{html.escape(title)}</figcaption><div class=scroll>"
        f'<svg viewBox="0 0 {width:.0f} {HEIGHT}" style="min-width: {0.65 * width:.0f}px" role="img"'
        f' aria-label="{html.escape(title)}">{drawn}{uprights}</svg></div></figure>'
    )


def _height(trial: Mapping[str, Any]) -> float | None:
    """The metric of a trial that has finished, else its newest validation."""
    value = trial["value"] if trial["value"] is not None else trial["last"]
    return None if value is None else float(value)


def _known(trial: Mapping[str, Any]) -> float:
    """The same of a trial that has one."""
    height = _height(trial)
    assert height is not None
    return height


def _axes(space: Space, metric: str, heights: Sequence[float]) -> list[_Upright]:
    part = max(A_PART, (WIDTH - LEFT - RIGHT) / len(space))
    fields = [_of_field(LEFT + part * at, field, axis) for at, (field, axis) in enumerate(space.items())]
    scale = of_numbers(without_outliers(heights), log=False)
    return [*fields, _Upright(LEFT + part * len(fields), metric, scale)]


def _of_field(x: float, field: str, axis: Axis) -> _Upright:
    if not isinstance(axis, Choice):
        return _Upright(x, field, of_numbers([axis.low, axis.high], log=axis.log))
    words = tuple(map(spelled, axis.values))
    return _Upright(x, field, Scale(0, len(words) - 1, [*enumerate(words)]), words)


def _styles(
    trials: Sequence[Mapping[str, Any]], document: Mapping[str, Any], best: int | None
) -> list[tuple[Mapping[str, Any], str, float]]:
    """Each trial with its class and the strength of its line, in the order in which they are drawn: the best on top."""
    sign = 1 if document["direction"] == "minimize" else -1
    finished = sorted((one for one in trials if one["value"] is not None), key=lambda one: sign * _known(one))
    others = [(one, "pruned", 0.6) for one in trials if one["value"] is None]
    count = max(1, len(finished) - 1)
    ranked = [
        (
            one,
            "kept" if one["number"] == best else "done",
            1.0 if one["number"] == best else 0.85 - 0.6 * at / count,
        )
        for at, one in enumerate(finished)
    ]
    return [*others, *reversed(ranked)]


def _line(
    trial: Mapping[str, Any], axes: Sequence[_Upright], fields: Sequence[str], style: str, strength: float
) -> str:
    values = [*(trial["params"][field] for field in fields), _known(trial)]
    points = " ".join(f"{axis.x:.1f},{axis.y(value):.1f}" for axis, value in zip(axes, values, strict=True))
    told = ", ".join(f"{field} {spelled(trial['params'][field])}" for field in fields)
    tip = html.escape(f"trial {trial['number']}, {trial['state']}: {_known(trial):.4f}; {told}")
    return f'<polyline class="{style}" style="opacity:{strength:.2f}" points="{points}"><title>{tip}</title></polyline>'


def _upright(axis: _Upright, at: int, count: int) -> str:
    """An axis over the lines. Names stand in two rows, so that long ones have room."""
    anchor = "start" if at == 0 else "end" if at == count - 1 else "middle"
    x = {"start": 4.0, "end": axis.x + RIGHT - 4, "middle": axis.x}[anchor]
    parts = [
        f'<line class="grid" x1="{axis.x:.1f}" y1="{TOP}" x2="{axis.x:.1f}" y2="{HEIGHT - BOTTOM}"/>',
        f'<text class="name" x="{x:.1f}" y="{18 + 18 * (at % 2)}" text-anchor="{anchor}">{html.escape(axis.name)}</text>',
    ]
    parts += [
        f'<text x="{axis.x - 6:.1f}" y="{axis.y(axis.words[int(place)] if axis.words else place) + 4:.1f}"'
        f' text-anchor="end">{html.escape(mark)}</text>'
        for place, mark in axis.scale.marks
    ]
    return "".join(parts)
