"""The tokens of an answer with how likely the model found each, as escaped HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .answer import ScoredToken

_LEVELS = (0.9, 0.5, 0.2, 0.05)  # above each, a fainter colour in style.py


def chances(tokens: Sequence[ScoredToken]) -> str:
    """Each token, coloured by its probability; hovering or focusing it shows the probability and what else was likely."""
    if not tokens:
        return ""
    mean = sum(token.logprob for token in tokens) / len(tokens)
    told = f"{len(tokens)} tokens, mean log-probability {mean:.3f}: point at one, or go through them with the arrow keys"
    # One stop for the Tab key; keys.js moves the focus inside.
    shown = "".join(_token(token, tabindex=-1 if place else 0) for place, token in enumerate(tokens))
    return f'<p class="quiet">{told}</p><div class="chances" role="group" aria-label="Tokens" dir="auto">{shown}</div>'


def _token(token: ScoredToken, *, tabindex: int) -> str:
    level = sum(math.exp(token.logprob) < least for least in _LEVELS)
    lines = [f"{_visible(token.text)}  {_share(token.logprob)}"]
    others = [one for one in token.alternatives if one[0] != token.text]
    lines += [f"{_visible(text)}  {_share(logprob)}" for text, logprob in others]
    told = escape("\n".join(lines))
    broken = "<br>" * token.text.count("\n")
    text = escape(token.text.replace("\n", "⏎"))
    return f'<span class="token likely-{level}" tabindex="{tabindex}" data-told="{told}" aria-label="{told}">{text}</span>{broken}'


def _share(logprob: float) -> str:
    return f"{math.exp(logprob):.1%} ({logprob:.3f})"


def _visible(text: str) -> str:
    """A token in a list: spaces and ends of lines are to be seen."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"
