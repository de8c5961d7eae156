"""How a budget in bytes becomes slots, and that a window is a view."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.engine.decoder.kv_cache import LONG_TOKENS, KvCache
from ptune.engine.decoder.lazy_memory import zeros
from ptune.errors import UsageError
from ptune.formats.signature import CacheLayer, Signature

LAYERS = (CacheLayer(kv_heads=2, key_dim=4, value_dim=3), CacheLayer(kv_heads=1, key_dim=6, value_dim=6))


def signature(context: int) -> Signature:
    return Signature(vocab_size=10, context=context, cache=LAYERS, sockets=())


PER_TOKEN = 4 * (2 * 7 + 12)


@given(tokens=st.integers(2, 100_000), context=st.integers(2, 8192), max_slots=st.integers(1, 64))
def test_cache_is_within_its_budget_and_leaves_no_slot_unused(
    tokens: int, context: int, max_slots: int
) -> None:
    cache = KvCache.within(tokens * PER_TOKEN, signature(context), max_slots)
    held = sum(array.nbytes for array in cache.window(0, cache.slots).values())
    assert held == cache.slots * cache.allocated * PER_TOKEN <= tokens * PER_TOKEN
    assert cache.allocated == cache.capacity + 1
    assert 1 <= cache.slots <= max_slots
    assert cache.capacity <= context
    if cache.slots < max_slots:  # one more slot would have left all of them too short
        assert tokens // (cache.slots + 1) < min(context, LONG_TOKENS) + 1


def test_long_context_gets_fewer_slots_before_short_ones() -> None:
    cache = KvCache.within(10_000 * PER_TOKEN, signature(8192), 32)
    assert (cache.slots, cache.capacity) == (4, 2499)


def test_window_is_a_view_of_neighbouring_slots() -> None:
    cache = KvCache(signature(16), slots=4, capacity=16)
    window = cache.window(1, 3)
    shapes = {"past_key.0": (2, 2, 17, 4), "past_value.0": (2, 2, 17, 3)}
    assert {**{name: array.shape for name, array in window.items()}, **shapes} == {
        **shapes, "past_key.1": (2, 1, 17, 6), "past_value.1": (2, 1, 17, 6),
    }  # fmt: skip
    window["past_key.0"][0] = 1
    assert cache.window(1, 2)["past_key.0"].min() == 1
    assert cache.window(0, 1)["past_key.0"].max() == 0
    assert all(
        array.flags.c_contiguous and np.shares_memory(array, cache.window(0, 4)[n])
        for n, array in window.items()
    )


def test_budget_for_nothing_is_an_error() -> None:
    with pytest.raises(
        UsageError, match=rf"{PER_TOKEN} bytes holds 1 tokens: one token takes {PER_TOKEN} bytes"
    ):
        KvCache.within(PER_TOKEN, signature(64), 4)


@pytest.mark.skipif(sys.platform != "linux", reason="tells its memory otherwise")
def test_a_few_tokens_take_little_memory() -> None:
    """Of 315 MB, one token in each of 300 places; in huge pages it would be all of them."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    cache = zeros((100, 3, 4096, 64))
    before = resident()
    cache[:, :, 0] = 1
    assert resident() - before < 20e6
    assert (cache[-1, -1, :2, -1] == [1, 0]).all()
