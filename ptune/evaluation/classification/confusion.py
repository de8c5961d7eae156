"""A confusion matrix in HTML: a table shaded by the share of each row, or a small picture for many labels."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.evaluation.style import text

MOST_IN_TABLE = 30  # labels; more become a picture, with the commonest confusions as a list
COMMONEST = 25
_STRONGEST = 0.55  # keeps figures readable, in light and dark
_CELL = 7  # pixels of the picture


def confusion(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Draws gold labels as rows, predicted ones as columns: blue for right, orange for wrong."""
    if len(names) <= MOST_IN_TABLE:
        return _table(names, matrix)
    return _picture(names, matrix) + _commonest(names, matrix)


def _table(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    heads = "".join(f'<th title="{text(name)}">{text(_short(name))}</th>' for name in names)
    lines = []
    for at, (name, row) in enumerate(zip(names, matrix, strict=True)):
        cells = "".join(_cell(count, sum(row), at == column) for column, count in enumerate(row))
        lines.append(f'<tr><th title="{text(name)}">{text(_short(name))}</th>{cells}</tr>')
    return (
        "<p class=dim>Rows: gold. Columns: predicted. Colour: share of the row.</p>"
        f'<div class=scroll><table class="heat"><thead><tr><th></th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _cell(count: int, total: int, right: bool) -> str:
    if not count:
        return '<td class="none">·</td>'
    share = count / total
    colour = f"color-mix(in srgb, var(--{'line-0' if right else 'line-1'}) {_STRONGEST * share**0.5:.0%}, transparent)"
    return f'<td style="background:{colour}" title="{share:.1%} of the row">{count}</td>'


def _picture(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    edge = _CELL * len(names)
    cells = []
    for at, row in enumerate(matrix):
        total = sum(row)
        for column, count in enumerate(row):
            if count:
                kind, strength = ("line-0" if at == column else "line-1"), (count / total) ** 0.5
                cells.append(
                    f'<rect x="{column * _CELL}" y="{at * _CELL}" width="{_CELL - 1}" height="{_CELL - 1}" '
                    f'style="fill:var(--{kind});opacity:{max(strength, 0.15):.2f}">'
                    f"<title>{text(names[at])} as {text(names[column])}: {count}</title></rect>"
                )
    frame = f'<rect x="0" y="0" width="{edge}" height="{edge}" style="fill:none;stroke:var(--line)"/>'
    return (
        f"<p class=dim>{len(names)} labels. Rows: gold. Columns: predicted. Blue: right. Orange: wrong.</p>"
        f'<svg viewBox="0 0 {edge} {edge}" style="max-width:44rem" role="img" aria-label="confusion matrix">{frame}{"".join(cells)}</svg>'
    )


def _commonest(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    wrong = [
        (count, sum(row), names[at], names[column])
        for at, row in enumerate(matrix)
        for column, count in enumerate(row)
        if count and at != column
    ]
    wrong.sort(key=lambda one: -one[0])
    lines = "".join(
        f'<tr><td class="name">{text(gold)}</td><td class="name">{text(said)}</td>'
        f'<td class="number">{count}</td><td class="number">{count / total:.1%}</td></tr>'
        for count, total, gold, said in wrong[:COMMONEST]
    )
    if not lines:
        return ""
    return (
        "<h3>Commonest confusions</h3><div class=scroll><table><tr><th>gold</th><th>predicted</th><th class=number>rows</th>"
        f"<th class=number>of the label</th></tr>{lines}</table></div>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
