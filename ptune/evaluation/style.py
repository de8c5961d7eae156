"""The style of evaluation pages: self-contained files without scripts, light and dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --dim: #5d6779; --line: #e3e6ea; --paper: #fff; --card: #f7f8fa;
  --first: #2563eb; --second: #b45309; --good: #15803d; --bad: #b42318; --heat: 37 99 235; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #98a2b3; --line: #32373f; --paper: #15181c;
  --card: #1d2126; --first: #7aa7ff; --second: #f5b74f; --good: #5fd38a; --bad: #ff8a7a; --heat: 96 150 255; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.dim { color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--dim); } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.better { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
figure { margin: 1rem 0; } figcaption { color: var(--dim); margin-bottom: .25rem; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--dim); }
.grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 1.8; } polyline.first { stroke: var(--first); } polyline.second { stroke: var(--second); }
.faint { opacity: .35; }
circle.second { fill: var(--second); }
.key::before { content: ""; display: inline-block; width: .8em; height: .2em; margin: 0 .35em .25em .8em; background: currentColor; }
.key.first { color: var(--first); } .key.second { color: var(--second); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; margin: 1rem 0; }
article > p { margin: 0 0 .75rem; font-weight: 600; white-space: pre-wrap; }
.sampled td { width: 100%; white-space: pre-wrap; overflow-wrap: anywhere; } .sampled th { white-space: nowrap; }
.sides { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.sides h3 { margin: 0 0 .25rem; font-size: .85rem; color: var(--dim); font-weight: 600; }
.sides p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def text(value: object) -> str:
    """Escapes a value as text of the page."""
    return html.escape(str(value))


def no_better(evaluation: Mapping[str, Any]) -> str:
    """HTML, in red, if the model is no better than a baseline: see `ptune.evaluation.no_better`."""
    told = evaluation.get("no_better")
    return f"<p class=bad>This model is {text(told)}.</p>" if told else ""


def page(title: str, sections: Sequence[str], more_style: str = "") -> str:
    """Renders a whole document."""
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}{more_style}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )
