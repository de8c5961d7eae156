"""The answers whose steps are judged most wrongly, as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.data.shapes.labelled import LabelledRow
from ptune.evaluation.process_reward.measures import Verdicts
from ptune.evaluation.style import text

SHOWN = 12


def gallery(rows: Sequence[LabelledRow], gold: Verdicts, said: Verdicts) -> str:
    """Lists prompts with their steps, and marks those that are judged wrongly."""
    misses = [
        sum(a != b for a, b in zip(one, other, strict=True)) for one, other in zip(gold, said, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda at: -misses[at])[:SHOWN]
    return "".join(_one(rows[at], gold[at], said[at]) for at in order if misses[at])


def _one(row: LabelledRow, gold: Sequence[str | None], said: Sequence[str | None]) -> str:
    prompt, *steps = row.input
    lines = []
    for step, right, verdict in zip(steps, gold, said, strict=True):
        told = f"{right} → {verdict or 'cut off'}" if right != verdict else f"{right}"
        marked = "word wrong" if right != verdict else "word"
        lines.append(f'<li><span class="{marked}">{text(step)}<small>{text(told)}</small></span></li>')
    return (
        f'<article><p class="input">{text(prompt)}</p><ol class="words">{"".join(lines)}</ol>'
        f'<p class="said"><span class="dim">data → model · {text(row.place)}</span></p></article>'
    )
