"""The results of a search: a table on the terminal, tune.json, report.html, best.yaml."""

from __future__ import annotations

import html
from collections.abc import Sequence

from rich.table import Table

from ptune.formats.whole_write import write_text
from ptune.progress import duration
from ptune.tuning.outcome import Outcome, Tried
from ptune.tuning.outcome import write as write_outcome
from ptune.tuning.page import page
from ptune.tuning.parallel import parallel
from ptune.tuning.plots import Dot, bars, scatter
from ptune.tuning.settings import Search
from ptune.tuning.space import Axis, Choice, Range, spelled

SHOWN = 10  # trials in the table on the terminal
_FEW = 10  # an integer range of fewer values is drawn as categories


def write(outcome: Outcome, search: Search) -> None:
    """Writes tune.json, report.html and, if a trial has finished, best.yaml."""
    write_outcome(outcome, search)
    write_text(search.folder / "report.html", report(outcome, search))


def table(outcome: Outcome, search: Search) -> Table:
    """The best trials, for a terminal."""
    shown = Table(box=None, pad_edge=False)
    for head in ("trial", search.metric.replace("_", " "), *search.space, "steps", "time", ""):
        words = head in ("", *(field for field, axis in search.space.items() if isinstance(axis, Choice)))
        shown.add_column(head, justify="left" if words else "right", no_wrap=head != "")
    for one in outcome.tried[:SHOWN]:
        shown.add_row(*_cells(one, search))
    return shown


def report(outcome: Outcome, search: Search) -> str:
    """report.html"""
    counts = {state: sum(one.state == state for one in outcome.tried) for state in _STATES}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    space = "<br>".join(f"<code>{_text(f'{field}={axis}')}</code>" for field, axis in search.space.items())
    sections = [
        f"<p class=dim>{len(outcome.tried)} trials of {_text(search.recipe.name)}: {summary or 'none yet'}; "
        f"judged by {_text(search.metric.replace('_', ' '))}; the test set was not used</p>",
        f"<p>{space}</p>",
        *_best(outcome, search),
        *_importance(outcome),
        "<h2>History</h2>",
        _history(outcome, search),
        *(["<h2>Trial by trial</h2>", lines] if (lines := parallel(outcome.document(search))) else []),
        "<h2>Field by field</h2>",
        f"<div class=slices>{''.join(_slice(field, outcome, search) for field in search.space)}</div>",
        "<h2>All trials</h2>",
        _all(outcome, search),
    ]
    return page(search.name, sections)


_STATES = ("finished", "pruned", "went wrong", "failed", "unfinished")


def _best(outcome: Outcome, search: Search) -> list[str]:
    best = outcome.best
    if best is None:
        return ["<h2>Best</h2>", "<p>No trial has finished yet.</p>"]
    values = ", ".join(f"{field} {spelled(value)}" for field, value in best.params.items())
    name = _text(search.metric.replace("_", " "))
    return [
        "<h2>Best</h2>",
        f"<p>Trial {best.number}, {name} <b>{best.value:.4f}</b>: {_text(values)}. "
        "Train it again with <code>ptune train best.yaml</code>.</p>",
    ]


def _importance(outcome: Outcome) -> list[str]:
    if not outcome.importances:
        return []
    finished = sum(one.state == "finished" for one in outcome.tried)
    return [
        "<h2>What mattered</h2>",
        f"<p class=dim>Share of the metric's variance that a field explains ({outcome.evaluator} over {finished} "
        "finished trials; with few trials it is a rough guess)</p>",
        bars(outcome.importances),
    ]


def _history(outcome: Outcome, search: Search) -> str:
    tried = sorted(outcome.tried, key=lambda one: one.number)
    line: list[tuple[float, float]] = []
    best: float | None = None
    for one in tried:
        if one.value is not None:
            better = best is None or (one.value > best if search.maximised else one.value < best)
            if better and best is not None:
                line.append((one.number, best))  # a step, not a slope
            best = one.value if better else best
        if best is not None:
            line.append((one.number, best))
    dots = _dots(tried, outcome, search, [float(one.number) for one in tried])
    title = f"{search.metric.replace('_', ' ')} of each trial; the line is the best so far, a ring was pruned"
    return scatter(title, "trial", dots, line=line)


def _slice(field: str, outcome: Outcome, search: Search) -> str:
    axis = search.space[field]
    tried = [one for one in outcome.tried if field in one.params]
    choices = _few(axis)
    places: list[float | str] = [
        spelled(one.params[field]) if choices else float(one.params[field]) for one in tried
    ]
    dots = _dots(tried, outcome, search, places)
    log = isinstance(axis, Range) and axis.log
    return scatter(field, field, dots, log=log, choices=choices, size=(400, 240))


def _few(axis: Axis) -> tuple[str, ...]:
    """The values of an axis that has few, as text; empty for an axis with many."""
    if isinstance(axis, Choice):
        return tuple(map(spelled, axis.values))
    if axis.whole and axis.high - axis.low < _FEW:
        return tuple(str(value) for value in range(int(axis.low), int(axis.high) + 1))
    return ()


def _dots(
    tried: Sequence[Tried], outcome: Outcome, search: Search, places: Sequence[float | str]
) -> list[Dot]:
    dots = []
    for one, place in zip(tried, places, strict=True):
        height = one.value if one.value is not None else one.last
        if height is None:
            continue
        style = "kept" if one is outcome.best else "done" if one.value is not None else "pruned"
        values = ", ".join(f"{field} {spelled(value)}" for field, value in one.params.items())
        dots.append(Dot(place, height, style, f"trial {one.number}, {one.state}: {height:.4f}; {values}"))
    return dots


def _all(outcome: Outcome, search: Search) -> str:
    heads = ("trial", search.metric.replace("_", " "), *search.space, "steps", "time", "")
    numeric = [head != "" for head in heads]
    classes = ["number" if number else "" for number in numeric]
    head = "".join(
        f"<th class='{kind}'>{_text(name)}</th>" for name, kind in zip(heads, classes, strict=True)
    )
    rows = []
    for one in outcome.tried:
        cells = zip(_cells(one, search), classes, strict=True)
        row = "".join(f"<td class='{kind}'>{_text(cell)}</td>" for cell, kind in cells)
        rows.append(f"<tr{' class=best' if one is outcome.best else ''}>{row}</tr>")
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _cells(one: Tried, search: Search) -> list[str]:
    value = (
        f"{one.value:.4f}" if one.value is not None else f"({one.last:.4f})" if one.last is not None else "–"
    )
    fields = [spelled(one.params[field]) if field in one.params else "–" for field in search.space]
    ending = one.why if one.state == "finished" else f"{one.state}{f': {one.why}' if one.why else ''}"
    return [str(one.number), value, *fields, str(one.steps), duration(one.seconds), ending]


def _text(value: str) -> str:
    return html.escape(value)
