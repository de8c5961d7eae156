"""Runs and jobs as HTML: the queue, and where a training stands."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ptune.evaluation.sampled import TITLE, sampled
from ptune.progress import duration
from ptune.studio.jobs.queue import Job
from ptune.studio.recipe.shown import gigabytes
from ptune.studio.run.courses import Course

MOST_JOBS = 12


def queue(jobs: Sequence[Job], now: float) -> str:
    """The newest jobs: what runs, what waits, what has ended."""
    if not jobs:
        return '<p class="quiet empty">Nothing was asked for yet.</p>'
    order = {"running": 0, "waiting": 1}
    shown = sorted(jobs, key=lambda job: (order.get(job.state, 2), -job.added))[:MOST_JOBS]
    rows = "".join(
        f"<tr><td>{chip('stopping' if job.stopping else job.state)}</td><td>{escape(job.kind)} <b>{escape(job.name)}</b></td>"
        f"<td class=number>{_took(job, now)}</td></tr>"
        for job in shown
    )
    return f"<table>{rows}</table>"


def chip(state: str) -> str:
    """A state as a pill."""
    return f'<span class="chip {escape(state)}">{escape(state)}</span>'


def facts(course: Course, peak_bytes: int | None, planned_bytes: int | None, log: str = "") -> str:
    """Where a run stands: a bar of its steps, and its newest figures; before its first step what its job's log said last."""
    done = course.step / course.planned if course.planned else 0.0
    steps = f"{course.step:,} <small>of {course.planned:,}</small>" if course.planned else f"{course.step:,}"
    running = course.state in ("running", "stopping")
    left = duration(course.left_s) if running and course.left_s is not None else "–"
    took = "" if course.record is None or not course.record.seconds else duration(course.record.seconds)
    pairs = [
        ("State", chip(course.state)),
        ("Step", steps),
        ("Time left", f"about {left}") if running and left != "–" else ("Time", took or left),
        ("Loss, smoothed", _number(_last(course.smoothed("loss")))),
        ("Validation loss", _number(course.newest("validation_loss"))),
        (
            f"{course.speed.partition('_')[0].capitalize()} a second",
            _number(_last(course.smoothed(course.speed))),
        ),
        ("Memory", _memory(peak_bytes, planned_bytes)),
    ]
    if (right := course.newest("validation_accuracy")) is not None:
        pairs.insert(5, ("Validation accuracy", f"{right:.1%}"))
    told = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs)
    bar = (
        f'<div class=progress role=progressbar aria-valuenow="{100 * done:.0f}" aria-valuemin=0 aria-valuemax=100'
        f' aria-label="steps done"><i style="width:{100 * min(done, 1):.1f}%"></i></div>'
    )
    now = f"<p role=status>Before the first step: {escape(last_line(log))} …</p>" if course.preparing else ""
    ended = "" if running or course.record is None else course.record.how_it_ended()
    why = f"<p class=ended>{escape(ended)}</p>" if ended else ""
    return f"<h2>{escape(course.name)}</h2>{bar}{now}{why}<dl class=facts>{told}</dl>"


def samples(course: Course) -> str:
    """What the model answers to held-out prompts while it trains; nothing of a model that writes no text."""
    answered = sampled(course.samples)
    return f"<h2>{TITLE}</h2>{answered}" if answered else ""


def last_line(log: str) -> str:
    """What a job that prepares its training said last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "starting"


def _memory(peak: int | None, planned: int | None) -> str:
    if peak is None and planned is None:
        return "–"
    used = "–" if peak is None else gigabytes(peak)
    return used if planned is None else f"{used} <small>of {gigabytes(planned)} planned</small>"


def _last(points: Sequence[tuple[float, float]]) -> float | None:
    return points[-1][1] if points else None


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _took(job: Job, now: float) -> str:
    if job.started is None:
        return ""
    return duration(max(0.0, (job.ended or now) - job.started))
