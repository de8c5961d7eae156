"""The one rule by which raw text becomes words that get tags."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+|[^\w\s]")


def split(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end: runs of letters, digits and underscores, and each other mark alone."""
    return [found.span() for found in _WORD.finditer(text)]
