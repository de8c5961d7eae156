"""Entities of tags are seqeval's; those of schemes and tags that it does not know by its defaults are what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from ptune.codecs.tag_marks import Tag, entities_of, read_tag

BIO = ("O", "B-A", "I-A", "B-B", "I-B", "B-A-B")
BIOES = ("O", "B-A", "I-A", "E-A", "S-A", "E-B", "I-B", "S-B")


def some_of(tags: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(tags), max_size=9)


@given(st.one_of(some_of(BIO), some_of(BIOES), some_of(("O", "B", "I"))))
def test_entities_are_seqevals(tags: list[str]) -> None:
    assert list(entities_of(tags)) == get_entities(tags)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("S-PER S-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("U-PER U-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("B-PER I-PER L-PER B-PER L-PER O", [("PER", 0, 2), ("PER", 3, 4)]),
        ("B-PER M-PER E-PER S-PER", [("PER", 0, 2), ("PER", 3, 3)]),
        ("ORG ORG O ORG PER", [("ORG", 0, 1), ("ORG", 3, 3), ("PER", 4, 4)]),
        ("DET NOUN NOUN -LRB-", [("DET", 0, 0), ("NOUN", 1, 2), ("-LRB-", 3, 3)]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities_of_other_schemes(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert list(entities_of(tags.split())) == found


def test_what_a_tag_says() -> None:
    read = {tag: read_tag(tag) for tag in ("O", "B-PER", "U-PER", "I", "NOUN", "X-RAY", "B-")}
    assert read == {
        "O": Tag("O", ""),
        "B-PER": Tag("B", "PER"),
        "U-PER": Tag("S", "PER"),
        "I": Tag("I", "_"),
        "NOUN": Tag("I", "NOUN"),
        "X-RAY": Tag("I", "X-RAY"),
        "B-": Tag("I", "B-"),
    }
