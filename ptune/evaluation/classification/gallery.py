"""The worst errors as HTML: texts, words with their tags, embedded thumbnails."""

from __future__ import annotations

import base64
import io
from typing import Any

from ptune.errors import DataError
from ptune.evaluation.classification.mistakes import worst
from ptune.evaluation.classification.outcome import Outcome
from ptune.evaluation.style import text

_LONGEST = 800  # characters of a text
_MOST_WORDS = 120
_EDGE, _QUALITY = 112, 80  # of a thumbnail: pixels and JPEG quality; some 4 kB each


def gallery(outcome: Outcome) -> str:
    """One article per error, the worst first; empty if there is none."""
    places = worst(outcome)
    if not places:
        return ""
    if outcome.labels.problem == "tags":
        return "".join(_tagged(outcome, at) for at in places)
    first = outcome.rows[places[0]].input
    if isinstance(first, str | tuple):
        return "".join(_text(outcome, at) for at in places)
    return f'<div class="thumbs">{"".join(_picture(outcome, at) for at in places)}</div>'


def _text(outcome: Outcome, at: int) -> str:
    given = outcome.rows[at].input
    parts = given if isinstance(given, tuple) else (given,)
    inputs = "".join(f'<p class="input">{text(_cut(part))}</p>' for part in parts)
    return f"<article>{inputs}{_said(outcome, at, outcome.rows[at].place)}</article>"


def _picture(outcome: Outcome, at: int) -> str:
    place = outcome.rows[at].place
    try:
        shown = f'<img alt="{text(place)}" src="{thumbnail(outcome.rows[at].input)}">'
    except DataError as error:
        shown = f"<p>{text(error)}</p>"
    return f"<article>{shown}{_said(outcome, at, place.rpartition('/')[2])}</article>"


def _said(outcome: Outcome, at: int, place: str) -> str:
    gold, predicted = outcome.gold[at], outcome.predicted[at]
    if outcome.labels.problem == "regression":
        answer = f"is <b>{gold:.4g}</b>, predicted <b>{predicted:.4g}</b>"
    else:
        sure = f" ({outcome.confidence[at]:.0%} sure)"
        answer = f'is <b class="kept">{_named(gold)}</b>, predicted <b class="missed">{_named(predicted)}</b>{sure}'
    return f'<p class="said">{answer} <span class="dim">· {text(place)}</span></p>'


def _named(value: Any) -> str:
    return text(value if isinstance(value, str) else ", ".join(value) or "none")


def _tagged(outcome: Outcome, at: int) -> str:
    row, words = outcome.rows[at], []
    pairs = list(zip(row.input, outcome.gold[at], outcome.predicted[at], strict=True))
    for word, gold, predicted in pairs[:_MOST_WORDS]:
        if gold != predicted:
            words.append(
                f'<span class="word wrong">{text(word)}<small>{text(gold)} → {text(predicted)}</small></span>'
            )
        elif gold != "O":
            words.append(f'<span class="word">{text(word)}<small>{text(gold)}</small></span>')
        else:
            words.append(f'<span class="word">{text(word)}</span>')
    more = f" … and {len(pairs) - _MOST_WORDS} words more" if len(pairs) > _MOST_WORDS else ""
    return (
        f'<article><p class="words input">{" ".join(words)}{more}</p>'
        f'<p class="said"><span class="dim">gold → predicted · {text(row.place)}</span></p></article>'
    )


def thumbnail(reference: Any) -> str:
    """An image as a data: URI, so that the page needs no other file. Raises: DataError if it cannot be read."""
    from PIL import Image

    image = reference.open().convert("RGB")
    image.thumbnail((_EDGE, _EDGE))
    if max(image.size) < _EDGE // 2:  # enlarge small images by whole pixels
        factor = _EDGE // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    kept = io.BytesIO()
    image.save(kept, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(kept.getvalue()).decode()


def _cut(given: str) -> str:
    return given if len(given) <= _LONGEST else given[: _LONGEST - 1] + "…"
