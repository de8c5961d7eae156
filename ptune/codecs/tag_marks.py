"""What the tags of words say: where an entity begins and ends, and of which type it is. Read alike in figures and in serving.

Marks are those of BIO, of BIOES, and of BILOU and BMES, which have other letters for them. A tag without a mark, such as PER
or NOUN, is a type that goes on as long as words have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

OUTSIDE = "O"
"""The tag of a word that belongs to no entity."""
_MARKS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
UNNAMED = "_"
"""The type of B, I and so on alone, as seqeval calls it."""


class Tag(NamedTuple):
    """A tag. mark: B, I, E or S (an entity of one word); O outside any."""

    mark: str
    type: str


def read_tag(tag: str) -> Tag:
    """The mark and the type of a tag."""
    if tag == OUTSIDE:
        return Tag(OUTSIDE, "")
    letter, dash, kind = tag.partition("-")
    if letter in _MARKS and (kind or not dash):
        return Tag(_MARKS[letter], kind or UNNAMED)
    return Tag("I", tag)


def entities_of(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """The type, the first and the last word of each entity.

    It ends where its mark says so, and where the type changes or a word is outside, as in seqeval and conlleval.
    """
    first, open_type, ended = 0, "", True
    for at, (mark, kind) in enumerate(map(read_tag, tags)):
        begins = mark != OUTSIDE and (ended or mark in "BS" or kind != open_type)
        if open_type and (begins or mark == OUTSIDE):
            yield open_type, first, at - 1
            open_type = ""
        if begins:
            first, open_type = at, kind
        ended = mark in "ESO"
    if open_type:
        yield open_type, first, len(tags) - 1
