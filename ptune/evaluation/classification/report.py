"""report.html of a classifier: one self-contained file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptune.evaluation.classification import charts
from ptune.evaluation.classification.confusion import confusion
from ptune.evaluation.classification.report_style import STYLE
from ptune.evaluation.classification.results import HEADLINE, LOWER_IS_BETTER, shown, title
from ptune.evaluation.require import sentence
from ptune.evaluation.style import kept_step, no_better, page, text

_MANY_CLASSES = 12  # with more, the worst come first
_INTERVALS = (
    "intervals: 95 %, of shares of rows (accuracy, precision and recall of a label) Clopper and Pearson's exact one, of"
    " other figures the bootstrap over rows, or none where no row differs from the others"
)


def report(
    name: str, about: str, evaluation: Mapping[str, Any], *, training: str, mistakes: str, origin: str
) -> str:
    """Renders the page. `evaluation` is evaluation.json; the other parts are HTML, or empty."""
    split = {"given": "rows that were given"}.get(evaluation["split"], f"{evaluation['split']} rows")
    return page(
        name,
        [
            f"<h1>{text(name)}</h1>",
            f"<p class=dim>{text(about)}</p>",
            f"<p>{evaluation['examples']} {split}, {text(evaluation['task'])}; {_INTERVALS}</p>",
            kept_step(evaluation),
            no_better(evaluation),
            _cards(evaluation),
            _requirements(evaluation),
            "<h2>Side by side</h2>",
            _sides(evaluation),
            _details(evaluation),
            *(["<h2>Training</h2>", training] if training else []),
            _slices(evaluation["slices"]),
            *(["<h2>Worst errors</h2>", mistakes] if mistakes else []),
            "<h2>Where it comes from</h2>",
            _files(evaluation),
            origin,
        ],
        STYLE,
    )


def _cards(evaluation: Mapping[str, Any]) -> str:
    cards = []
    best = _best_baseline(evaluation)
    for name in HEADLINE[evaluation["problem"]]:
        if name not in evaluation["metrics"]:
            continue
        interval = evaluation["intervals"].get(name)
        between = f"{shown(name, interval[0])} to {shown(name, interval[1])}" if interval else "&nbsp;"
        beside = f"<p>{text(best[0])}: {shown(name, best[1][name])}</p>" if best and name in best[1] else ""
        cards.append(
            f"<div><h3>{text(title(name))}</h3><b>{shown(name, evaluation['metrics'][name])}</b><p>{between}</p>{beside}</div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _best_baseline(evaluation: Mapping[str, Any]) -> tuple[str, dict[str, float]] | None:
    main = HEADLINE[evaluation["problem"]][0]
    sign = -1 if main in LOWER_IS_BETTER else 1
    sides = {
        name: side["metrics"] for name, side in evaluation["baselines"].items() if main in side["metrics"]
    }
    return max(sides.items(), key=lambda side: sign * side[1][main]) if sides else None


def _requirements(evaluation: Mapping[str, Any]) -> str:
    lines = "".join(
        f'<li class="{"kept" if one["passed"] else "missed"}">{text(sentence(one))}</li>'
        for one in evaluation.get("requirements", [])
    )
    return f"<ul>{lines}</ul>" if lines else ""


def _sides(evaluation: Mapping[str, Any]) -> str:
    sides = {**evaluation["sides"], **evaluation["baselines"]}
    heads = "".join(f"<th class=number>{text(name)}</th>" for name in sides)
    lines = []
    for name in dict.fromkeys(name for side in sides.values() for name in side["metrics"]):
        values = [side["metrics"].get(name) for side in sides.values()]
        known = [value for value in values if value is not None]
        best = (min(known) if name in LOWER_IS_BETTER else max(known)) if _comparable(name, known) else None
        cells = "".join(
            _figure(name, value, side["intervals"].get(name), value == best)
            for value, side in zip(values, sides.values(), strict=True)
        )
        lines.append(f"<tr><th>{text(title(name))}</th>{cells}</tr>")
    narrow = ' class="fit"' if len(sides) == 1 else ""
    table = f"<div class=scroll><table{narrow}><tr><th></th>{heads}</tr>{''.join(lines)}</table></div>"
    return _agreement(evaluation) + table


def _comparable(name: str, values: Sequence[float]) -> bool:
    """Whether to mark the best value: not for calibration, which a constant guess wins, and not for ties."""
    return name != "ece" and len(set(values)) > 1


def _figure(name: str, value: float | None, interval: Sequence[float] | None, best: bool) -> str:
    if value is None:
        return "<td class=number>–</td>"
    return f'<td class="number{" better" * best}">{shown(name, value)}{_between(name, interval)}</td>'


def _between(name: str, interval: Sequence[float] | None) -> str:
    """An interval, below its figure; nothing where there is none."""
    return f"<small>{shown(name, interval[0])} to {shown(name, interval[1])}</small>" if interval else ""


def _agreement(evaluation: Mapping[str, Any]) -> str:
    if "agreement" not in evaluation:
        return ""
    agreed = evaluation["agreement"]
    if "texts" in agreed:
        return f"<p>torch and ONNX give the same text for {agreed['texts']:.1%} of the rows</p>"
    labels = f"agree on {agreed['labels']:.2%} of the labels; " if "labels" in agreed else ""
    return f"<p>torch and ONNX {labels}largest difference {agreed['max_abs_p']:.1e}</p>"


def _details(evaluation: Mapping[str, Any]) -> str:
    details, parts = evaluation["details"], []
    if "confusion" in details:
        names = details.get("confusion_labels", evaluation["labels"])
        parts += ["<h2>Confusion matrix</h2>", confusion(names, details["confusion"])]
    if evaluation["classes"]:
        kind = "type" if evaluation["problem"] == "tags" else "label"
        between = details.get("class_intervals", {})
        parts += [f"<h2>By {kind}</h2>", _classes(evaluation["classes"], kind, between)]
    drawn = []
    if "reliability" in details:
        drawn.append(charts.reliability(details["reliability"], evaluation["metrics"]["ece"]))
    if "roc" in details:
        area, positive = evaluation["metrics"], evaluation["labels"][1]
        drawn.append(
            charts.line(
                f"ROC of {positive}",
                "false positives",
                "true positives",
                details["roc"],
                f"· area {area['roc_auc']:.3f}",
                True,
            )
        )
        drawn.append(
            charts.line(
                f"Precision and recall of {positive}",
                "recall",
                "precision",
                details["pr"],
                f"· area {area['pr_auc']:.3f}",
                False,
            )
        )
    if drawn:
        parts += ["<h2>How sure, and how right</h2>", f'<div class="charts">{"".join(drawn)}</div>']
    return "\n".join(parts)


def _classes(classes: Mapping[str, Mapping[str, float]], kind: str, between: Mapping[str, Any]) -> str:
    lines = list(classes.items())
    many = len(lines) > _MANY_CLASSES
    if many:
        lines.sort(key=lambda line: line[1]["f1"])
    rows = "".join(
        f'<tr><td class="name">{text(name)}</td><td class="number">{one["support"]:.0f}</td>'
        + "".join(
            f'<td class="bars">{charts.bar(one[figure])}{_between(figure, between.get(name, {}).get(figure))}</td>'
            for figure in ("precision", "recall", "f1")
        )
        + "</tr>"
        for name, one in lines
    )
    note = "<p class=dim>The worst F1 first.</p>" if many else ""
    return (
        f'{note}<div class="tall" tabindex="0"><table><tr><th>{kind}</th><th class=number>gold</th><th>precision</th><th>recall</th>'
        f"<th>F1</th></tr>{rows}</table></div>"
    )


def _slices(slices: Sequence[Mapping[str, Any]]) -> str:
    if not slices:
        return ""
    metric = slices[0]["metric"]
    most = (
        max([1.0, *[part["interval"][1] for part in slices if part["interval"]]]) if metric == "mae" else 1.0
    )
    lines, column = [], None
    for part in slices:
        if part["column"] != column:
            column = part["column"]
            lines.append(f"<tr><th colspan=4>{text(column)}</th></tr>")
        low, high = part["interval"] or (part["figure"], part["figure"])
        lines.append(
            f'<tr><td class="name">{text(part["value"])}</td><td class="number">{part["rows"]}</td>'
            f'<td class="number">{shown(metric, part["figure"])}{_between(metric, part["interval"])}</td>'
            f"<td>{charts.whisker(part['figure'], low, high, most)}</td></tr>"
        )
    return (
        "<h2>Slices</h2><div class=scroll><table><tr><th></th><th class=number>rows</th>"
        f"<th class=number>{text(title(metric))}</th><th></th></tr>{''.join(lines)}</table></div>"
    )


def _files(evaluation: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{text(file['path'])}</th><td>SHA-256 {text(file['sha256'])}</td></tr>"
        for file in evaluation["files"]
    )
    return f"<div class=scroll><table>{rows}</table></div>"
