"""CSS of charts in SVG, each in a <figure>, since pages have icons in SVG, too. What is drawn takes the colour of its class: line-0 … line-5; first and second are the first two."""

from __future__ import annotations

from ptune.looks.palette import LIGHT

_COLOURS = " ".join(f".line-{at} {{ color: var(--line-{at}); }}" for at in range(len(LIGHT.lines)))

CSS = f"""
{_COLOURS} .first {{ color: var(--line-0); }} .second {{ color: var(--line-1); }}
figure {{ margin: 1rem 0; min-width: 0; }}
figcaption {{ margin-bottom: 0.25rem; font-size: 0.88rem; font-weight: 600; color: var(--ink); }}
figure svg {{ width: 100%; height: auto; display: block; overflow: visible; }}
figure svg text {{ font-size: 13px; fill: var(--dim); }}
figure svg .grid {{ stroke: var(--line); }}
figure svg polyline {{ fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }}
figure svg circle {{ fill: currentColor; }}
figure svg polyline.faint {{ stroke-width: 1.2; }} figure svg .faint {{ opacity: 0.35; }}
figure svg polyline.dashed {{ stroke-dasharray: 5 4; }}
.key {{ font-size: 0.8rem; font-weight: 450; margin-left: 0.9em; white-space: nowrap; }}
.key::before {{ content: ""; display: inline-block; width: 0.9em; height: 0.2em; margin: 0 0.4em 0.25em 0; background: currentColor; }}
.key.dashed::before {{ background: repeating-linear-gradient(90deg, currentColor 0 0.3em, transparent 0.3em 0.45em); }}
@media (max-width: 640px) {{ figure svg text {{ font-size: 16px; }} .key {{ white-space: normal; }} }}
@media print {{ figure {{ break-inside: avoid; }} }}
"""
