"""The rule that splits raw text into words for tagging."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+|[^\w\s]")


def split(text: str) -> list[tuple[int, int]]:
    """The spans of a text's words: runs of letters, digits and underscores; every other mark is a word of its own."""
    return [match.span() for match in _WORD.finditer(text)]
