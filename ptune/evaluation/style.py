"""The style of evaluation pages: self-contained files without scripts, light and dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ptune.evaluation.kept_step import told
from ptune.looks.charts import CSS as CHARTS
from ptune.looks.fonts import FONT, MONOSPACE, family
from ptune.looks.palette import OF_FILES
from ptune.looks.tables import tables

STYLE = f"""{OF_FILES}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 {family(FONT)}; }}
h1 {{ font-size: 1.3rem; font-weight: 650; letter-spacing: -0.01em; line-height: 1.3; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.05rem; font-weight: 650; margin: 2.5rem 0 0.75rem; break-after: avoid; }}
code {{ font-family: {family(MONOSPACE)}; font-size: 0.85em; }}
a {{ color: var(--line-0); }}
:focus-visible {{ outline: 2px solid var(--mark); outline-offset: 2px; }}
.dim {{ color: var(--dim); }}
.scroll {{ overflow-x: auto; }}
{tables("body")}
.better {{ color: var(--good); font-weight: 600; }} .bad {{ color: var(--bad); font-weight: 600; }}
{CHARTS}
article {{ background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem; padding: 1rem; margin: 1rem 0;
  break-inside: avoid; }}
article > p {{ margin: 0 0 0.75rem; font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }}
.sampled td {{ width: 100%; white-space: pre-wrap; overflow-wrap: anywhere; }} .sampled th {{ white-space: nowrap; }}
.sides {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }}
.sides h3 {{ margin: 0 0 0.25rem; font-size: 0.85rem; color: var(--dim); font-weight: 600; }}
.sides p {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }}
@media print {{ html {{ font-size: 13px; }} body {{ max-width: none; padding: 0; }} .scroll, .tall {{ overflow: visible; max-height: none; }} }}
"""


def text(value: object) -> str:
    """Escapes a value as text of the page."""
    return html.escape(str(value))


def no_better(evaluation: Mapping[str, Any]) -> str:
    """HTML, in red, if the model is no better than a baseline: see `ptune.evaluation.no_better`."""
    told = evaluation.get("no_better")
    return f"<p class=bad>This model is {text(told)}.</p>" if told else ""


def kept_step(evaluation: Mapping[str, Any]) -> str:
    """HTML, if the rows also chose the step that was kept: see `ptune.evaluation.kept_step`."""
    sentence = told(evaluation)
    return f"<p class=dim>{text(sentence)}</p>" if sentence else ""


def page(title: str, sections: Sequence[str], more_style: str = "") -> str:
    """Renders a whole document."""
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}{more_style}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )
