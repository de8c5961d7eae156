"""Outputs of an encoder's adapters as escaped HTML: bars of labels, marked entities, ordered items and texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from .client import EncoderAdapter, Labelled, RecommendedItem, Tagged

MOST_BARS = 12
_HUES = 10  # colours of entity labels, in style.py


def bars(found: Labelled, classifier: EncoderAdapter) -> str:
    """A bar for each label, likeliest first; for a regression, the number."""
    if classifier.problem == "regression":
        rows = "".join(
            f"<div class=number-row><span>{escape(label)}</span><strong>{value:.3f}</strong></div>"
            for label, value in found.scores
        )
        return f"<div class=result>{rows}{_foot(found.seconds, found.truncated)}</div>"
    rows = "".join(
        _bar(label, score, first=at == 0, classifier=classifier)
        for at, (label, score) in enumerate(found.scores[:MOST_BARS])
    )
    more = len(found.scores) - MOST_BARS
    left = f"<p class=quiet>and {more} less likely labels</p>" if more > 0 else ""
    return (
        f"<div class=result><div class=bars>{rows}</div>{left}{_foot(found.seconds, found.truncated)}</div>"
    )


def _bar(label: str, score: float, *, first: bool, classifier: EncoderAdapter) -> str:
    chosen = score >= 0.5 if classifier.problem == "multi" else first
    return (
        f'<div class="bar{" chosen" * chosen}"><span class=label title="{escape(label)}">{escape(label)}</span>'
        f'<span class=track><i style="width:{100 * score:.2f}%"></i></span><span class=share>{score:.1%}</span></div>'
    )


def marked(found: Tagged, labels: Sequence[str]) -> str:
    """The text, with entities in colours and followed by their labels."""
    kinds = entity_kinds(labels)
    parts, at = [], 0
    for label, begin, end, score in found.entities:
        parts.append(escape(found.text[at:begin]))
        parts.append(
            f'<mark class="hue-{hue(label, kinds)}" title="{escape(label)}, {score:.1%}">'
            f"{escape(found.text[begin:end])}<b>{escape(label)}</b></mark>"
        )
        at = end
    parts.append(escape(found.text[at:]))
    none = "" if found.entities else "<p class=quiet>No entity was found.</p>"
    return (
        f"<div class=result><p class=marked dir=auto>{''.join(parts)}</p>{none}"
        f"{_foot(found.seconds, found.truncated)}</div>"
    )


def entity_kinds(labels: Sequence[str]) -> list[str]:
    """The kinds of entities of a tagger: its tags without B- and I-."""
    return list(dict.fromkeys(label.partition("-")[2] for label in labels if "-" in label))


def hue(label: str, kinds: Sequence[str]) -> int:
    """The colour of a label, always the same."""
    if label in kinds:
        return kinds.index(label) % _HUES
    return int(hashlib.sha256(label.encode()).hexdigest(), 16) % _HUES


def recommended(found: Sequence[RecommendedItem], seconds: float) -> str:
    """Items, the best first, each with a bar and what is nearest to it in the history."""
    if not found:
        return (
            f"<div class=result><p class=quiet>Nothing is left to recommend.</p>{_foot(seconds, False)}</div>"
        )
    rows = []
    for one in found:
        near = " · ".join(f"{escape(title)} <b>{score:.2f}</b>" for title, score in one.reasons)
        reasons = f"<p class=why>near {near}</p>" if near else ""
        rows.append(f"<li>{_place(one.title, one.score, _most(one.score for one in found))}{reasons}</li>")
    return f"<div class=result><ol class=places>{''.join(rows)}</ol>{_foot(seconds, False)}</div>"


def ranked(found: Labelled) -> str:
    """Texts, the best first, each with a bar."""
    most = _most(score for _, score in found.scores)
    rows = "".join(f"<li>{_place(text, score, most)}</li>" for text, score in found.scores)
    return f"<div class=result><ol class=places>{rows}</ol>{_foot(found.seconds, found.truncated)}</div>"


def _most(scores: Iterable[float]) -> float:
    """The score of a full bar: 1, or the highest score if that is more."""
    return max(1.0, *scores)


def _place(text: str, score: float, most: float) -> str:
    width = 100 * max(score, 0.0) / most
    return (
        f'<div class=place><span class=said dir=auto>{escape(text)}</span><span class=track><i style="width:{width:.2f}%"></i>'
        f"</span><span class=share>{score:.3f}</span></div>"
    )


def problem(message: str) -> str:
    """An error message."""
    return f'<p class="problem" role="alert">{escape(message)}</p>'


def waiting(text: str) -> str:
    """A placeholder before there is a result."""
    return f'<p class="quiet empty">{escape(text)}</p>'


def _foot(seconds: float, truncated: bool) -> str:
    cut = " · the text was longer than the model reads, its end was cut off" if truncated else ""
    return f"<p class=quiet>{1000 * seconds:.0f} ms{cut}</p>"
