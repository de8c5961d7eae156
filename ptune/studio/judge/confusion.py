"""A classifier's confusion matrix as HTML whose cells are buttons, and the examples that a cell counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ptune.evaluation.classification.tags import type_of
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json_lines
from ptune.studio.judge.texts import texts_of
from ptune.studio.judge.thumbnails import thumbnails
from ptune.studio.sheet import Cell, Content, note, sheet

MOST_IN_TABLE = 20  # labels; of more the commonest confusions are listed
COMMONEST = 25
EXAMPLES = 20
LONGEST_LABEL = 18  # characters
_STRONGEST = 45  # percent of the colour, so that a figure on it can be read, in light and dark


@dataclass(frozen=True)
class Confusion:
    """How often rows of a label were said to be of another; of tags: how often words of a type."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]  # [label in the data][label that the model says]
    words: bool = False

    @property
    def unit(self) -> str:
        return "words" if self.words else "rows"

    @classmethod
    def of(cls, evaluation: Mapping[str, Any]) -> Confusion | None:
        """Of evaluation.json; None for what has none: several labels, numbers, rankings, text."""
        details = evaluation.get("details") or {}
        if "confusion" not in details:
            return None
        names = tuple(map(str, details.get("confusion_labels") or evaluation["labels"]))
        counts = tuple(tuple(map(int, row)) for row in details["confusion"])
        return cls(names, counts, evaluation.get("problem") == "tags")

    def wrong(self) -> list[tuple[int, int]]:
        """The cells of confusions, the commonest first."""
        size = range(len(self.names))
        found = [(at, said) for at in size for said in size if at != said and self.counts[at][said]]
        return sorted(found, key=lambda cell: -self.counts[cell[0]][cell[1]])

    def cell(self, chosen: str) -> tuple[int, int] | None:
        """The cell that a button names, "row,column"; None for what names none."""
        at, _, said = chosen.partition(",")
        if not (at.isdecimal() and said.isdecimal() and max(int(at), int(said)) < len(self.names)):
            return None
        return int(at), int(said)


def matrix(found: Confusion) -> str:
    """The matrix, or the commonest confusions of many labels."""
    return _table(found) if len(found.names) <= MOST_IN_TABLE else _listed(found)


def _table(found: Confusion) -> str:
    heads = "".join(f'<th scope="col" title="{escape(name)}">{_short(name)}</th>' for name in found.names)
    rows = "".join(
        f'<tr><th scope="row" title="{escape(name)}">{_short(name)}</th>'
        f"{''.join(_cell(found, at, said) for said in range(len(found.names)))}</tr>"
        for at, name in enumerate(found.names)
    )
    what = f"Which {found.unit} are taken for which"
    how = f"A line: what the data says. A column: what the model says. Choose a figure to see its {'rows' if found.words else found.unit}."
    return (
        f'{note(how)}<div class="sheet confusion" tabindex="0" role="region" aria-label="{what}"><table><caption>{what}'
        f'</caption><thead><tr><th scope="col">data ↓ model →</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _cell(found: Confusion, at: int, said: int) -> str:
    count, total = found.counts[at][said], sum(found.counts[at])
    if not count:
        return "<td>·</td>"
    share = f"--share: {_STRONGEST * (count / total) ** 0.5:.0f}%"
    kind = "right" if at == said else "wrong"
    return f'<td class="{kind}" style="{share}">{_button(found, at, said)}</td>'


def _button(found: Confusion, at: int, said: int) -> str:
    count = found.counts[at][said]
    unit = found.unit[:-1] if count == 1 else found.unit
    told = f"{count} {unit} of {found.names[at]}, the model says {found.names[said]}: show them"
    return f'<button type="button" data-cell="{at},{said}" aria-label="{escape(told)}">{count:,}</button>'


def _listed(found: Confusion) -> str:
    wrong = found.wrong()
    rows = "".join(
        f'<tr><th scope="row" class="words">{escape(found.names[at])}</th><td class="words">{escape(found.names[said])}</td>'
        f'<td class="figure">{_button(found, at, said)}</td></tr>'
        for at, said in wrong[:COMMONEST]
    )
    if not rows:
        return note(f"None of {len(found.names)} labels is taken for another.", "good")
    what = f"The commonest of {len(wrong)} confusions"
    return (
        f'<div class="sheet confusion" tabindex="0" role="region" aria-label="{what}"><table><caption>{what}</caption>'
        '<thead><tr><th scope="col">label</th><th scope="col" class="words">the model says</th><th scope="col" class="figure">'
        f"{found.unit}</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def examples(
    found: Confusion, cell: tuple[int, int], evaluation: Mapping[str, Any], run: Run, home: Path
) -> str:
    """The rows of a cell, those of which the model was surest first. home: the folder from which data files are named."""
    gold, said = (found.names[at] for at in cell)
    lines = sorted(_lines(run, found, gold, said), key=lambda line: -_sureness(line))
    if not lines:
        return note("There are no predictions of this evaluation any more: evaluate the run again.")
    title = f"{gold}: the model is right" if gold == said else f"{gold}, taken for {said}"
    count = "1 row" if len(lines) == 1 else f"{len(lines)} rows"
    count += f", {EXAMPLES} shown" if len(lines) > EXAMPLES else ""
    shown = lines[:EXAMPLES]
    if any("image" in line for line in shown):
        told = [f"{_sureness(line):.1%}" for line in shown]
        return f"<h3>{escape(title)}: {count}</h3>{thumbnails(shown, told, home)}"
    known = {str(file["path"]): str(file["sha256"]) for file in evaluation.get("files", [])}
    texts = texts_of([str(line["place"]) for line in shown], run, home, known)
    rows = [_row(line, texts) for line in shown]
    return sheet(f"{title}: {count}", ("row", "confidence"), rows)


def _lines(run: Run, found: Confusion, gold: str, said: str) -> Iterator[dict[str, Any]]:
    path = run.folder / "predictions.jsonl"
    if not path.is_file():
        return
    for line in read_json_lines(path):
        if found.words:
            pairs = zip(line["gold"], line["predicted"], strict=True)
            if any((type_of(one), type_of(other)) == (gold, said) for one, other in pairs):
                yield line
        elif (line["gold"], line["predicted"]) == (gold, said):
            yield line


def _sureness(line: Mapping[str, Any]) -> float:
    """Of one label, its probability; of tags, the lowest of the row's words."""
    scores = line["scores"]
    return float(min(scores, default=0.0) if isinstance(line["gold"], list) else max(scores, default=0.0))


def _row(line: Mapping[str, Any], texts: Mapping[str, str]) -> tuple[Content, ...]:
    place = str(line["place"])
    told = Cell(texts[place], place) if place in texts else Cell(place)
    return told, f"{_sureness(line):.1%}"


def _short(name: str) -> str:
    return escape(name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…")


CSS = """
.confusion th, .confusion td { vertical-align: middle !important; }
.confusion table { width: auto; min-width: min(100%, 24rem); }
.confusion thead th, .confusion tbody th { white-space: nowrap; }
.confusion thead th:not(:first-child, .words) { text-align: right; }
.confusion td:not(.words) { text-align: right; font-variant-numeric: tabular-nums; padding: 0.15rem 0.7rem 0.15rem 0.3rem; }
.confusion td.right { background: color-mix(in srgb, var(--good) var(--share), transparent) !important; }
.confusion td.wrong { background: color-mix(in srgb, var(--line-1) var(--share), transparent) !important; }
.confusion button { font: inherit; color: var(--body-text-color); background: transparent; border: 0; cursor: pointer;
  min-width: 2.2rem; min-height: 2rem; width: 100%; text-align: right; padding: 0 0.4rem; text-decoration: underline dotted; }
.confusion button:focus-visible { outline: 2px solid var(--primary-500); outline-offset: -2px; }
"""
