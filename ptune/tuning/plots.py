"""Scatter plots and bars as inline SVG. Colours come from the page's style, for light and dark mode."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptune.evaluation.curve import ticks

LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 38  # margins, in pixels of the view box


@dataclass(frozen=True)
class Dot:
    """One trial. `style` is its CSS class, `title` its tooltip."""

    x: float | str
    y: float
    style: str
    title: str


@dataclass(frozen=True)
class Scale:
    """Maps values to shares of an axis' length, and holds the axis' marks."""

    low: float
    high: float
    marks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5


def scatter(
    title: str,
    x_label: str,
    dots: Sequence[Dot],
    *,
    log: bool = False,
    choices: Sequence[str] = (),
    line: Sequence[tuple[float, float]] = (),
    size: tuple[int, int] = (720, 260),
) -> str:
    """A <figure> with one dot per trial. choices: the values of a categorical axis; line: drawn behind the dots."""
    if not dots:
        return ""
    width, height = size
    words = {word: float(index) for index, word in enumerate(choices)}
    across = _of_words(choices) if choices else of_numbers([float(dot.x) for dot in dots], log)
    up = of_numbers(without_outliers([dot.y for dot in dots]), log=False)

    def place(x: float, y: float) -> tuple[float, float]:
        inside = min(max(up.share(y), 0.0), 1.0)  # outliers are drawn at the edge
        return (
            LEFT + across.share(x) * (width - LEFT - RIGHT),
            height - BOTTOM - inside * (height - TOP - BOTTOM),
        )

    parts = []
    for value, text in up.marks:
        y = place(across.low, value)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{width - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in across.marks:
        x = place(value, up.low)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{height - BOTTOM + 17}" text-anchor="middle">{html.escape(text)}</text>'
        )
    if line:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline class="best" points="{points}"/>')
    for dot in dots:
        x, y = place(words[dot.x] if isinstance(dot.x, str) else dot.x, dot.y)
        tip = html.escape(dot.title)
        parts.append(
            f'<circle class="{dot.style}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{tip}</title></circle>'
        )
    label = f'<text x="{width - RIGHT}" y="{height - 4}" text-anchor="end">{html.escape(x_label)}</text>'
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(parts)}{label}</svg></figure>"
    )


def bars(shares: Mapping[str, float]) -> str:
    """A table of names and bars; shares are fractions of 1."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td class=bar><i style='width:{100 * share:.1f}%'></i></td>"
        f"<td class=number>{share:.0%}</td></tr>"
        for name, share in shares.items()
    )
    return f"<table class=bars>{rows}</table>"


def of_numbers(values: Sequence[float], log: bool) -> Scale:
    """An axis that holds these numbers, with round marks. log: over their orders of magnitude."""
    if not log:
        places = ticks(min(values), max(values), 5)
        return Scale(places[0], places[-1], [(place, f"{place:g}") for place in places])
    low, high = min(values), max(values)
    if high / low < 1.01:
        low, high = low / 2, high * 2
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = (1, 3) if len(decades) <= 4 else (1,)
    marks = [factor * 10.0**decade for decade in decades for factor in every]
    inside = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
    return Scale(low, high, [(mark, f"{mark:g}") for mark in inside or (low, high)], log=True)


def _of_words(choices: Sequence[str]) -> Scale:
    marks = [(float(index), word) for index, word in enumerate(choices)]
    return Scale(-0.5, len(choices) - 0.5, marks)


def without_outliers(values: Sequence[float]) -> list[float]:
    """The values that set the scale, without outliers: one bad trial should not flatten all others."""
    ordered = sorted(values)
    low, middle, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.0, 0.5, 0.9))
    limit = max(high, middle + 5 * (middle - low))
    return [value for value in ordered if value <= limit]
