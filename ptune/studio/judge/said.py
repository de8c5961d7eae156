"""What a side says, as HTML: a text, labels as bars, words that are tagged, texts by how near they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ptune.studio.sheet import Cell, note, sheet

TITLES = {"base": "Before training (base)", "tuned": "After training (your model)"}
MOST_LABELS = 10


def answer(side: str, said: Mapping[str, Any] | None, question: str, *, compares: bool = False) -> str:
    """One side's answer under its title. said: None while it is awaited. compares: scores are of texts, not of labels."""
    inside = note("…") if said is None else _told(said, question, TITLES[side], compares=compares)
    return f'<div class="answer"><h3>{TITLES[side]}</h3>{inside}</div>'


def _told(said: Mapping[str, Any], question: str, title: str, *, compares: bool) -> str:
    parts = []
    if "text" in said:
        parts.append(f"<p dir=auto>{escape(said['text']) or '(nothing)'}</p>")
    if "scores" in said:
        parts.append(_near(said["scores"], title) if compares else bars(said["scores"]))
    if "marks" in said:
        parts.append(_tagged(question, said["marks"]))
    if said.get("note"):
        parts.append(note(said["note"][0].upper() + said["note"][1:] + "."))
    return "".join(parts)


def bars(scores: Mapping[str, float], *, numbers: bool = False) -> str:
    """HTML of labels with their probabilities; a number as it is, which is no share of anything.

    numbers: whether the scores are known to be numbers; otherwise those outside of 0 to 1 are told by their size.
    """
    shown = list(scores.items())[:MOST_LABELS]
    if numbers or any(not 0 <= value <= 1 for _, value in shown):
        return "".join(f"<p>{escape(label)}: <b>{value:.4g}</b></p>" for label, value in shown)
    bars = "".join(
        f"<div class=bar><span class=label title='{escape(label)}'>{escape(label)}</span><span class=track>"
        f"<i style='width:{100 * value:.1f}%'></i></span><span class=share>{value:.1%}</span></div>"
        for label, value in shown
    )
    left = len(scores) - len(shown)
    return f"<div class=bars>{bars}</div>" + note(f"and {left} labels more" if left else "")


def _near(scores: Mapping[str, float], title: str) -> str:
    rows = [(Cell(text), f"{value:.3f}") for text, value in scores.items()]
    return sheet(f"{title}: the nearest first", ("text", "score"), rows)


def _tagged(text: str, marks: Sequence[Mapping[str, Any]]) -> str:
    if not marks:
        return note("Nothing is tagged.")
    pieces, at = [], 0
    for mark in marks:
        pieces.append(escape(text[at : mark["begin"]]))
        at = mark["end"]
        named = f"{escape(mark['label'])} {mark['score']:.0%}"
        pieces.append(
            f'<mark class="learned">{escape(text[mark["begin"] : at])} <small>{named}</small></mark>'
        )
    return f"<p dir=auto>{''.join(pieces)}{escape(text[at:])}</p>"
