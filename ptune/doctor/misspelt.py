"""Rare labels that are probably a misspelling of a frequent one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

FEWEST = 5  # training examples of a label that has enough
_OFTEN = 3  # times as frequent as the rare one, at least, is the one that is meant
_SHORTEST = 4  # letters; of shorter words another letter makes another word
_LIKE = 0.8  # difflib's ratio: a letter or two of a word


def misspelt(counts: Mapping[str, int]) -> dict[str, str]:
    """Rare label -> the frequent one that differs from it by case, spaces or a letter or two. counts: of each label."""
    frequent = [name for name, count in counts.items() if count >= FEWEST]
    found = {}
    for rare, count in counts.items():
        likely = [name for name in frequent if counts[name] >= _OFTEN * count]
        if count < FEWEST and (meant := _meant(rare, likely)) is not None:
            found[rare] = meant
    return found


def _meant(rare: str, frequent: list[str]) -> str | None:
    for name in frequent:
        if _plain(name) == _plain(rare):
            return name
    near = {
        _plain(name): name for name in frequent if _digits(name) == _digits(rare) and _begin_alike(name, rare)
    }
    if len(_plain(rare)) < _SHORTEST:
        return None
    close = difflib.get_close_matches(_plain(rare), near, n=1, cutoff=_LIKE)
    return near[close[0]] if close and abs(len(close[0]) - len(_plain(rare))) <= 2 else None


def _plain(name: str) -> str:
    """Without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def _begin_alike(name: str, other: str) -> bool:
    """Whether two names begin with the same letter and neither is the other behind a prefix.

    A slip is rarely the first letter, and there another meaning begins: unsafe and safe, female and male, I-PER and B-PER.
    """
    one, two = _plain(name), _plain(other)
    return one[:1] == two[:1] and not (one.endswith(two) or two.endswith(one))


def _digits(name: str) -> list[str]:
    """Numbers are not misspelt: class 1 is not class 2."""
    return re.findall(r"\d+", name)
