"""The page style of a search's report, on top of evaluation's."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.evaluation import style

_MORE = """
tr.best td { color: var(--good); font-weight: 600; }
.bars th { width: 12rem; } .bars td.number { width: 4rem; }
.bar i { display: block; height: .9rem; margin-top: .3rem; background: var(--mark); border-radius: 2px; min-width: 1px; }
.slices { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
polyline { color: var(--line-0); } polyline.best { color: var(--good); }
.parallel polyline { stroke-width: 1.4; } .parallel polyline.kept { color: var(--good); stroke-width: 3; }
.parallel polyline.pruned { color: var(--line-1); stroke-dasharray: 4 4; }
.parallel text { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; } .parallel .name { font-weight: 600; }
circle.done { color: var(--line-0); } circle.kept { color: var(--good); }
circle.pruned { fill: none; stroke: var(--line-1); stroke-width: 1.5; }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A page with a heading and the sections: one file, without scripts or external resources."""
    return style.page(title, [f"<h1>{style.text(title)}</h1>", *sections], _MORE)
