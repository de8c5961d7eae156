"""report.html: one file with everything in it, to be opened anywhere and sent to anybody."""

from __future__ import annotations

import html
from typing import Any

from ptune.evaluation.curve import Series, chart
from ptune.formats.run import RunRecord
from ptune.progress import duration
from ptune.recipe import Recipe

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --dim: #667085; --line: #e3e6ea; --paper: #fff; --card: #f7f8fa;
  --first: #2563eb; --second: #d97706; --good: #15803d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #98a2b3; --line: #32373f; --paper: #15181c;
  --card: #1d2126; --first: #7aa7ff; --second: #f5b74f; --good: #5fd38a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.dim { color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--dim); } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.better { color: var(--good); font-weight: 600; }
figure { margin: 1rem 0; } figcaption { color: var(--dim); margin-bottom: .25rem; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--dim); }
.grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 1.8; } polyline.first { stroke: var(--first); } polyline.second { stroke: var(--second); }
circle.second { fill: var(--second); }
.key::before { content: ""; display: inline-block; width: .8em; height: .2em; margin: 0 .35em .25em .8em; background: currentColor; }
.key.first { color: var(--first); } .key.second { color: var(--second); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; margin: 1rem 0; }
article > p { margin: 0 0 .75rem; font-weight: 600; white-space: pre-wrap; }
.sides { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.sides h3 { margin: 0 0 .25rem; font-size: .85rem; color: var(--dim); font-weight: 600; }
.sides p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def report(
    record: RunRecord, recipe: Recipe, evaluation: dict[str, Any], metrics: list[dict[str, Any]]
) -> str:
    """The page. It loads nothing from elsewhere and runs no script."""
    sections = [
        f"<h1>{_text(recipe.name)}</h1>",
        f"<p class=dim>{_text(record.base.source)}, {_text(record.method)}, {record.steps} steps in "
        f"{duration(record.seconds)} on {_text(record.instruction_set)}</p>",
        "<h2>Before and after</h2>",
        _figures(evaluation),
        "<h2>Training</h2>",
        chart(
            "Loss a token",
            "step",
            [
                Series("training", "first", _points(metrics, "loss")),
                Series("validation", "second", _points(metrics, "validation_loss"), marks=True),
            ],
        ),
        chart("Learning rate", "step", [Series("learning rate", "first", _points(metrics, "lr"))]),
        *(["<h2>Answers</h2>"] if evaluation["answers"] else []),
        *map(_answer, evaluation["answers"]),
        "<h2>Where it comes from</h2>",
        _origin(record),
    ]
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_text(recipe.name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _figures(evaluation: dict[str, Any]) -> str:
    sides = [("base", evaluation["before"])]
    if "in_context" in evaluation:
        shots = evaluation["in_context"]
        sides.append((f"base, {shots['examples']} examples in context", shots))
    sides.append(("tuned", evaluation["after"]))
    rows = []
    for title, name, form, lower_is_better in (
        ("loss a token", "loss", ".3f", True),
        ("perplexity", "perplexity", ".1f", True),
        ("token accuracy", "token_accuracy", ".1%", False),
    ):
        values = [side[name] for _, side in sides]
        best = min(values) if lower_is_better else max(values)
        cells = [f'<td class="number{" better" * (value == best)}">{value:{form}}</td>' for value in values]
        rows.append(f"<tr><th>{title}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<th class=number>{_text(name)}</th>" for name, _ in sides)
    note = f"{evaluation['examples']} examples ({evaluation['split']}), {evaluation['before']['targets']} targets"
    return f"<p class=dim>{note}</p><div class=scroll><table><tr><th></th>{heads}</tr>{''.join(rows)}</table></div>"


def _answer(answer: dict[str, str]) -> str:
    sides = [("base", answer["base"]), ("tuned", answer["adapter"]), ("expected", answer["expected"])]
    columns = "".join(f"<div><h3>{name}</h3><p>{_text(text)}</p></div>" for name, text in sides)
    return f"<article><p>{_text(answer['prompt'])}</p><div class=sides>{columns}</div></article>"


def _origin(record: RunRecord) -> str:
    rows = [
        ("base", f"{record.base.source} ({record.base.architecture}, licence {record.base.licence})"),
        ("weights", f"SHA-256 {record.base.hash}"),
        ("held as", f"{record.base.quantize}, other weights {record.base.dtype}"),
        ("kept step", str(record.best_step or record.steps)),
        *[
            (hop.name, f"max |Δ log p| {hop.max_abs_logprob:.1e} over {hop.prompts} prompts")
            for hop in record.hops
        ],
        ("made with", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
    ]
    cells = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<div class=scroll><table>{cells}</table></div>"


def _points(metrics: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[name]) for entry in metrics if name in entry]


def _text(value: str) -> str:
    return html.escape(value)
