"""Which items share a pass, and how they lie in it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptune.engine.encoder.batch import Item, choose, least_tokens, most_rows, padded
from ptune.formats.signature import EncoderSignature, Socket

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


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 64), st.integers(1, 16))
def test_a_small_pass_is_padded(lengths: list[int], rank: int, threads: int) -> None:
    """Each thread has two rows or more, and there are as many rows as a factor has columns."""
    items = [Item({"input_ids": np.ones(length, np.int64)}) for length in lengths]
    signature = EncoderSignature(modality="text", sockets=())
    ids = padded(items, signature, least_tokens(rank, threads))["input_ids"]
    assert ids.size >= rank
    assert ids.size >= 2 * threads
    assert ids.shape == (len(items), ids.shape[1])
    assert ids.sum() == sum(lengths)


def test_images_under_an_adapter_come_alone_where_threads_share_them() -> None:
    linear = Socket(name="a", in_features=4, out_features=4)
    conv = linear.model_copy(update={"kernel": (1, 1)})
    for threads, sockets, most in ((1, (conv,), 32), (2, (conv,), 1), (2, (linear,), 32), (2, (), 32)):
        assert most_rows(EncoderSignature(modality="image", sockets=sockets), 32, threads) == most
