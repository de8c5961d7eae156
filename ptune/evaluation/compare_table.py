"""A comparison of runs as a table in the terminal and as an HTML page."""

from __future__ import annotations

from rich.table import Table

from ptune.evaluation.classification.report_style import STYLE
from ptune.evaluation.classification.results import (
    LOWER_IS_BETTER,
    OF_A_HUNDRED,
    PLAIN_NUMBERS,
    shown,
    title,
)
from ptune.evaluation.compare import Compared, Comparison
from ptune.evaluation.paired import Difference
from ptune.evaluation.style import page, text
from ptune.progress import duration

_COST = ("trained", "time", "method", "lr")


def table(comparison: Comparison) -> Table:
    """A table with one line per run: figures with intervals, training cost."""
    drawn = Table(title=_title(comparison), title_justify="left")
    drawn.add_column("run")
    for name in comparison.metrics:
        drawn.add_column(title(name), justify="right")
    for name in _COST:
        drawn.add_column(name, justify="right")
    for run in comparison.runs:
        drawn.add_row(run.name, *(_figure(run, name, "\n") for name in comparison.metrics), *_cost(run))
    return drawn


def tests(comparison: Comparison) -> list[str]:
    """A sentence for each tested difference."""
    first = comparison.runs[0].name
    return [_sentence(run.name, first, one) for run in comparison.runs[1:] for one in run.differences]


def html(comparison: Comparison) -> str:
    """The comparison as one self-contained page."""
    heads = "".join(f"<th class=number>{text(title(name))}</th>" for name in comparison.metrics)
    heads += "".join(f"<th class=number>{name}</th>" for name in _COST)
    lines = []
    for run in comparison.runs:
        cells = "".join(_cell(comparison, run, name) for name in comparison.metrics)
        cells += "".join(f"<td class=number>{text(value)}</td>" for value in _cost(run))
        lines.append(f'<tr><td class="name">{text(run.name)}</td>{cells}</tr>')
    sentences = "".join(f"<li>{text(one)}</li>" for one in tests(comparison))
    return page(
        "Comparison of runs",
        [
            "<h1>Comparison of runs</h1>",
            f"<p class=dim>{text(_title(comparison))}</p>",
            f"<div class=scroll><table><tr><th>run</th>{heads}</tr>{''.join(lines)}</table></div>",
            *(["<h2>More than luck?</h2>", f"<ul>{sentences}</ul>"] if sentences else []),
        ],
        STYLE,
    )


def _title(comparison: Comparison) -> str:
    unit = "examples" if comparison.task == "chat" else "rows"
    return f"{comparison.task}, {comparison.examples} {unit} ({comparison.split}), 95 % intervals"


def _figure(run: Compared, name: str, between: str) -> str:
    if name not in run.metrics:
        return "–"
    if name not in run.intervals:
        return shown(name, run.metrics[name])
    low, high = run.intervals[name]
    return f"{shown(name, run.metrics[name])}{between}[{shown(name, low)}, {shown(name, high)}]"


def _cell(comparison: Comparison, run: Compared, name: str) -> str:
    values = [one.metrics[name] for one in comparison.runs if name in one.metrics]
    best = min(values) if name in LOWER_IS_BETTER else max(values)
    better = " better" * (len(set(values)) > 1 and run.metrics.get(name) == best)
    figure, _, interval = _figure(run, name, "\n").partition("\n")
    return f'<td class="number{better}">{text(figure)}<small>{text(interval)}</small></td>'


def _cost(run: Compared) -> tuple[str, str, str, str]:
    trained = "–" if run.parameters is None else f"{run.parameters:,}"
    return trained, duration(run.seconds), run.method, f"{run.lr:g}"


def _sentence(name: str, first: str, difference: Difference) -> str:
    low, high = difference.interval
    better = (difference.value < 0) == (difference.metric in LOWER_IS_BETTER)
    verdict = "no difference to be seen"
    if difference.p < 0.05:
        verdict = f"{name} is {'better' if better else 'worse'}"
    scale = 1.0 if difference.metric in PLAIN_NUMBERS | OF_A_HUNDRED else 100.0
    unit = "" if difference.metric in PLAIN_NUMBERS else " points"
    return (
        f"{name} against {first}: {title(difference.metric)} {scale * difference.value:+.2f}{unit} "
        f"[{scale * low:+.2f}, {scale * high:+.2f}], p = {difference.p:.3g} ({difference.test}): {verdict}"
    )
