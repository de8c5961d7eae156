"""The charts of runs, in the form of the reports' charts; several runs lie over each other."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ptune.evaluation.curve import Series, chart
from ptune.studio.run.courses import Course

SIZE = (560, 250)
COLOURS = 6  # of lines, in `ptune.studio.looks`
MOST_POINTS = 500  # of a line: more are closer than a pixel


def charts(courses: Sequence[Course]) -> str:
    """All charts that there are values for; a sentence if there are none yet."""
    drawn = [
        _losses(courses),
        _of(courses, "Validation accuracy", "validation_accuracy", marks=True),
        _of(courses, "Reward", "reward", smooth=True),
        _of(courses, "Learning rate", "lr"),
        _of(courses, "Gradient norm", "grad_norm", smooth=True),
        _speeds(courses),
    ]
    inside = "".join(one for one in drawn if one)
    if not inside:
        return '<p class="quiet empty">Charts begin with the first step.</p>'
    return f"{_key(courses)}<div class=charts>{inside}</div>"


def _losses(courses: Sequence[Course]) -> str:
    series: list[Series] = []
    for at, course in enumerate(courses):
        colour, whose = f"line-{at % COLOURS}", f"{course.name}: " if len(courses) > 1 else ""
        if len(course.points("loss")) > 1:
            series.append(Series(f"{whose}each step", f"{colour} faint", _thin(course.points("loss"))))
        series.append(Series(f"{whose}smoothed", colour, _thin(course.smoothed("loss"))))
        held = course.points("validation_loss")
        series.append(Series(f"{whose}validation", f"{colour} dashed", held, marks=True))
    return chart("Loss", "step", series, SIZE)


def _of(courses: Sequence[Course], title: str, key: str, *, smooth: bool = False, marks: bool = False) -> str:
    series = [
        Series(
            course.name,
            f"line-{at % COLOURS}",
            _thin(course.smoothed(key) if smooth else course.points(key)),
            marks=marks,
        )
        for at, course in enumerate(courses)
    ]
    return chart(title, "step", series, SIZE)


def _speeds(courses: Sequence[Course]) -> str:
    if not courses:
        return ""
    key = courses[0].speed
    return _of(courses, f"{key.partition('_')[0].capitalize()} a second", key, smooth=True)


def _key(courses: Sequence[Course]) -> str:
    """Which colour is which run, if there are several."""
    if len(courses) < 2:
        return ""
    keys = "".join(
        f'<span class="key line-{at % COLOURS}">{escape(one.name)}</span>' for at, one in enumerate(courses)
    )
    return f"<p class=keys>{keys}</p>"


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many of the points; the last one stays."""
    every = max(1, -(-len(points) // MOST_POINTS))
    return [point for at, point in enumerate(points) if at % every == 0 or at + 1 == len(points)]
