"""Texts of one chat template are compared from where they part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptune.verify.decoder.held_tokens import own_parts

tokens = st.lists(st.integers(0, 2), max_size=8).map(tuple)


def test_what_all_begin_with_counts_once() -> None:
    held = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 9), (1, 2), (7,)]
    assert list(own_parts(held)) == [
        ((1, 2, 3, 4), 0),
        ((1, 2, 3, 5), 3),
        ((1, 2, 9), 2),
        ((1, 2), 2),
        ((7,), 0),
    ]


@given(st.lists(tokens, max_size=8))
def test_each_beginning_is_in_one_part_alone(held: list[tuple[int, ...]]) -> None:
    counted = [ids[: end + 1] for ids, start in own_parts(held) for end in range(start, len(ids))]
    assert len(counted) == len(set(counted))
    assert set(counted) == {ids[: end + 1] for ids in held for end in range(len(ids))}
