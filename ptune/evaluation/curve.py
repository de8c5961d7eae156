"""Line charts as inline SVG; colours come from the page's style, for light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 260  # pixels of the view box
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 14, 34  # margins


@dataclass(frozen=True)
class Series:
    """A named line; `style` is its CSS class. Points must be finite."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]
    marks: bool = False  # a dot at every point


def chart(
    title: str,
    x_label: str,
    series: Sequence[Series],
    size: tuple[int, int] = (WIDTH, HEIGHT),
    *,
    from_zero: bool = False,
) -> str:
    """<figure> with the lines over common axes; empty if there are no points. x: counts, such as steps, so that its ticks are
    whole. size: of the view box, in pixels. from_zero: where no value is negative, the axis begins at 0, so that a small change
    looks small."""
    width, height = size
    drawn = [plotted for plotted in series if plotted.points]
    if not drawn:
        return ""
    xs, ys = ([point[axis] for plotted in drawn for point in plotted.points] for axis in (0, 1))
    low = 0.0 if from_zero and min(ys) >= 0 else min(ys)
    x_ticks, y_ticks = ticks(min(xs), max(xs), width // 120, least=1.0), ticks(low, max(ys), 5)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (width - LEFT - RIGHT), height - BOTTOM - up * (height - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        x, y = place(x_ticks[0], tick)
        parts.append(f'<line class="grid" x1="{x}" y1="{y:.1f}" x2="{width - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, y = place(tick, y_ticks[0])
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{tick:g}</text>')
    for plotted in drawn:
        dots = [place(*point) for point in plotted.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f'<polyline class="{plotted.style}" points="{line}"/>')
        if plotted.marks:
            parts += [f'<circle class="{plotted.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in dots]
    legend = " ".join(
        f'<span class="key {plotted.style}">{html.escape(plotted.name)}</span>' for plotted in drawn
    )
    label = f'<text x="{width - RIGHT}" y="{height - 2}" text-anchor="end">{html.escape(x_label)}</text>'
    return (
        f"<figure><figcaption>{html.escape(title)} {legend}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(parts)}{label}</svg></figure>"
    )


def averaged(points: Sequence[tuple[float, float]], over: int) -> list[tuple[float, float]]:
    """Exponential moving average over about `over` points; each weighs 1 - 1/over of the next.

    It is divided by the sum of its weights, so that the first points are not biased to 0 (as in Adam, Kingma and Ba 2015).
    """
    keep, total, weight = 1 - 1 / over, 0.0, 0.0
    smooth = []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        smooth.append((x, total / weight))
    return smooth


def ticks(low: float, high: float, count: int, *, least: float = 0.0) -> list[float]:
    """About `count` round numbers that enclose low to high; at least two. least: the smallest distance between them."""
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-12):  # one value
        margin = 0.1 * abs(low) or 0.5
        low, high = low - margin, high + margin
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = max(least, next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * (1 - 1e-9)))
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]
