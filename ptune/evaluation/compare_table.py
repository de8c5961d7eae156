"""A comparison of runs as a table of the terminal and as a page."""

from __future__ import annotations

from rich.table import Table

from ptune.evaluation.classification.report_style import STYLE
from ptune.evaluation.classification.results import LOWER_IS_BETTER, shown, title
from ptune.evaluation.compare import Compared, Comparison
from ptune.evaluation.paired import Difference
from ptune.evaluation.style import page, text
from ptune.progress import duration

_COST = ("trained", "time", "method", "lr")


def table(found: Comparison) -> Table:
    """A line a run: figures with intervals, what training cost."""
    drawn = Table(title=_title(found), title_justify="left")
    drawn.add_column("run")
    for name in found.metrics:
        drawn.add_column(title(name), justify="right")
    for name in _COST:
        drawn.add_column(name, justify="right")
    for run in found.runs:
        drawn.add_row(run.name, *(_figure(run, name, "\n") for name in found.metrics), *_cost(run))
    return drawn


def tests(found: Comparison) -> list[str]:
    """A sentence for each tested difference."""
    first = found.runs[0].name
    return [_sentence(run.name, first, one) for run in found.runs[1:] for one in run.differences]


def html(found: Comparison) -> str:
    """The same as one page that needs nothing else."""
    heads = "".join(f"<th class=number>{text(title(name))}</th>" for name in found.metrics)
    heads += "".join(f"<th class=number>{name}</th>" for name in _COST)
    lines = []
    for run in found.runs:
        cells = "".join(_cell(found, run, name) for name in found.metrics)
        cells += "".join(f"<td class=number>{text(value)}</td>" for value in _cost(run))
        lines.append(f'<tr><td class="name">{text(run.name)}</td>{cells}</tr>')
    sentences = "".join(f"<li>{text(one)}</li>" for one in tests(found))
    return page(
        "Comparison of runs",
        [
            "<h1>Comparison of runs</h1>",
            f"<p class=dim>{text(_title(found))}</p>",
            f"<div class=scroll><table><tr><th>run</th>{heads}</tr>{''.join(lines)}</table></div>",
            *(["<h2>More than luck?</h2>", f"<ul>{sentences}</ul>"] if sentences else []),
        ],
        STYLE,
    )


def _title(found: Comparison) -> str:
    unit = "examples" if found.task == "chat" else "rows"
    return f"{found.task}, {found.examples} {unit} ({found.split}), 95 % intervals"


def _figure(run: Compared, name: str, between: str) -> str:
    if name not in run.metrics:
        return "–"
    if name not in run.intervals:
        return shown(name, run.metrics[name])
    low, high = run.intervals[name]
    return f"{shown(name, run.metrics[name])}{between}[{shown(name, low)}, {shown(name, high)}]"


def _cell(found: Comparison, run: Compared, name: str) -> str:
    values = [one.metrics[name] for one in found.runs if name in one.metrics]
    best = min(values) if name in LOWER_IS_BETTER else max(values)
    better = " better" * (len(set(values)) > 1 and run.metrics.get(name) == best)
    figure, _, interval = _figure(run, name, "\n").partition("\n")
    return f'<td class="number{better}">{text(figure)}<small>{text(interval)}</small></td>'


def _cost(run: Compared) -> tuple[str, str, str, str]:
    trained = "–" if run.parameters is None else f"{run.parameters:,}"
    return trained, duration(run.seconds), run.method, f"{run.lr:g}"


def _sentence(name: str, first: str, one: Difference) -> str:
    low, high = one.interval
    better = (one.value < 0) == (one.metric in LOWER_IS_BETTER)
    verdict = "no difference to be seen"
    if one.p < 0.05:
        verdict = f"{name} is {'better' if better else 'worse'}"
    scale = 1.0 if one.metric in LOWER_IS_BETTER else 100.0
    unit = "" if scale == 1.0 else " points"
    return (
        f"{name} against {first}: {title(one.metric)} {scale * one.value:+.2f}{unit} "
        f"[{scale * low:+.2f}, {scale * high:+.2f}], p = {one.p:.3g} ({one.test}): {verdict}"
    )
