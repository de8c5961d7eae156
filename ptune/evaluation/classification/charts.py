"""Charts over the unit square as inline SVG, and bars; colours come from the page's style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ptune.evaluation.classification.results import shown
from ptune.evaluation.style import text

EDGE, LEFT, BOTTOM, REST = 320, 44, 40, 12  # pixels of the square and of its margins
_WIDTH, _HEIGHT = LEFT + EDGE + REST, REST + EDGE + BOTTOM


def _x(share: float) -> float:
    return LEFT + share * EDGE


def _y(share: float) -> float:
    return REST + (1 - share) * EDGE


def square(title: str, x_label: str, y_label: str, drawn: str, note: str = "") -> str:
    """<figure> of 0..1 by 0..1 with `drawn` inside."""
    parts = []
    for step in range(6):
        at = step / 5
        parts.append(f'<line class="grid" x1="{_x(0)}" y1="{_y(at):.1f}" x2="{_x(1)}" y2="{_y(at):.1f}"/>')
        parts.append(f'<text x="{_x(0) - 6}" y="{_y(at) + 4:.1f}" text-anchor="end">{at:g}</text>')
        parts.append(f'<text x="{_x(at):.1f}" y="{_y(0) + 16:.1f}" text-anchor="middle">{at:g}</text>')
    parts.append(f'<text x="{_x(1)}" y="{_HEIGHT - 6}" text-anchor="end">{text(x_label)}</text>')
    turned = f'transform="rotate(-90 12 {_y(1)})"'
    parts.append(f'<text x="12" y="{_y(1)}" text-anchor="end" {turned}>{text(y_label)}</text>')
    return (
        f"<figure><figcaption>{text(title)} <span class=dim>{text(note)}</span></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">{"".join(parts)}{drawn}</svg></figure>'
    )


def reliability(bins: Sequence[Mapping[str, float]], error: float) -> str:
    """Reliability diagram: accuracy by confidence, with a histogram of the confidences below it."""
    most = max(filled["rows"] for filled in bins)
    parts = [f'<line class="even" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>']
    for filled in bins:
        left, width = _x(filled["low"]) + 1, EDGE * (filled["high"] - filled["low"]) - 2
        top, tip = (
            _y(filled["accuracy"]),
            f"{filled['rows']} rows, sure {filled['confidence']:.1%}, right {filled['accuracy']:.1%}",
        )
        parts.append(
            f'<rect class="first" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{max(_y(0) - top, 0.5):.1f}">'
            f"<title>{text(tip)}</title></rect>"
        )
        tall = 0.15 * EDGE * filled["rows"] / most
        parts.append(
            f'<rect class="second" x="{left:.1f}" y="{_y(0) - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"/>'
        )
    drawn = "".join(parts)
    return square(
        "Calibration",
        "confidence",
        "share that is right",
        drawn,
        f"· error {shown('ece', error)}; orange: how many rows",
    )


def line(
    title: str, x_label: str, y_label: str, points: Sequence[Sequence[float]], note: str, even: bool
) -> str:
    """A curve through the unit square. even: draws the diagonal of guessing, too."""
    path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in points)
    guess = f'<line class="even" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>' if even else ""
    return square(title, x_label, y_label, f'{guess}<polyline class="first" points="{path}"/>', note)


def bar(share: float) -> str:
    """A bar for a share of 0..1, with its figure."""
    return f'<span class="bar"><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i></span>{share:.1%}'


def whisker(figure: float, low: float, high: float, most: float = 1.0) -> str:
    """Draws an interval as a line with a dot at the figure, on a scale from 0 to `most`."""
    a, b, at = (4 + 136 * min(max(value / most, 0), 1) if most else 4 for value in (low, high, figure))
    return (
        f'<svg class="range" viewBox="0 0 144 14" role="img" aria-label="{low:.3g} to {high:.3g}">'
        f'<line class="grid" x1="4" y1="7" x2="140" y2="7"/><line class="first" x1="{a:.1f}" y1="7" x2="{b:.1f}" y2="7"/>'
        f'<circle cx="{at:.1f}" cy="7" r="3.5"/></svg>'
    )
