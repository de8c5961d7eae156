"""Several runs in one table, and whether they differ from the first by more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptune.evaluation.classification.results import LOWER_IS_BETTER, shown, title
from ptune.evaluation.compare import Compared, Comparison, compare
from ptune.evaluation.compare_table import tests
from ptune.progress import duration
from ptune.studio.sheet import Cell, Content, note, sheet


def comparison(folders: Sequence[Path]) -> str:
    """The runs' figures with intervals, what they cost, and a sentence for each tested difference, as HTML.

    Raises: UsageError, FormatError as `ptune compare`.
    """
    return of(compare(folders))


def of(found: Comparison) -> str:
    """The same of a comparison."""
    unit = "examples" if found.task == "chat" else "rows"
    caption = f"{found.task}, {found.examples} {unit} ({found.split}), 95 % intervals"
    heads = ("run", *map(title, found.metrics), "trained", "time", "method", "lr")
    rows: list[tuple[Content, ...]] = []
    for run in found.runs:
        cost = ("–" if run.parameters is None else f"{run.parameters:,}", duration(run.seconds), run.method)
        rows.append((run.name, *(_figure(found, run, name) for name in found.metrics), *cost, f"{run.lr:g}"))
    sentences = "".join(note(sentence) for sentence in tests(found))
    return sheet(caption, heads, rows) + sentences


def _figure(found: Comparison, run: Compared, name: str) -> Cell:
    if name not in run.metrics:
        return Cell("–")
    values = [one.metrics[name] for one in found.runs if name in one.metrics]
    best = min(values) if name in LOWER_IS_BETTER else max(values)
    marked = len({*values}) > 1 and run.metrics[name] == best
    low, high = run.intervals.get(name, (None, None))
    below = "" if low is None or high is None else f"{shown(name, low)} to {shown(name, high)}"
    return Cell(f"{shown(name, run.metrics[name])}{' ✓' if marked else ''}", below, "good" if marked else "")
