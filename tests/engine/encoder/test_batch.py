"""Which items share a pass, and how they lie in it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptune.engine.encoder.batch import Item, choose, padded
from ptune.formats.signature import EncoderSignature

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=80)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 20_000), st.floats(0, 1))
def test_a_pass_keeps_its_limits(lengths: list[int], rows: int, tokens: int, padding: float) -> None:
    chosen = choose(lengths, rows, tokens, padding)
    assert 0 in chosen  # the oldest never waits for another pass
    assert len({*chosen}) == len(chosen) <= rows
    own = [lengths[index] for index in chosen]
    if len(own) > 1:
        total = max(own) * len(own)
        assert total <= tokens
        assert total - sum(own) <= padding * total + 1e-6
    assert own == sorted(own)
    between = [length for length in lengths if min(own) < length < max(own)]
    assert sorted(between) == [
        length for length in own if min(own) < length < max(own)
    ]  # no gap in the order of lengths


@given(LENGTHS, st.integers(1, 8))
def test_everybody_is_served_in_the_end(lengths: list[int], rows: int) -> None:
    waiting, passes = list(enumerate(lengths)), 0
    while waiting:
        chosen = {*choose([length for _, length in waiting], rows, 2048)}
        waiting = [job for index, job in enumerate(waiting) if index not in chosen]
        passes += 1
    assert passes <= len(lengths)


@given(st.integers(1, 512), st.integers(1, 64))
def test_texts_of_one_length_fill_a_pass(length: int, count: int) -> None:
    assert len(choose([length] * count, 32, most_tokens=10**9)) == min(count, 32)


def test_rows_are_padded_on_the_right() -> None:
    items = [
        Item({"input_ids": np.array(ids), "token_type_ids": np.array([1] * len(ids))})
        for ids in ([4, 5, 6], [7])
    ]
    found = padded(items, EncoderSignature(modality="text", type_ids=True, sockets=()))
    assert found["input_ids"].tolist() == [[4, 5, 6], [7, 0, 0]]
    assert found["token_type_ids"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert found["lengths"].tolist() == [3, 1]
    assert "token_type_ids" not in padded(items, EncoderSignature(modality="text", sockets=()))
