"""How a budget in bytes becomes slots, that a window is a view, and what is in memory."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.resident import resident_bytes

from ptune.engine.decoder.cache import kv_cache
from ptune.engine.decoder.cache.kv_cache import LONG_TOKENS, KvCache, page_tokens
from ptune.engine.decoder.cache.lazy_memory import GIVE_BACK, PAGE_BYTES, LazyMemory, zeros
from ptune.errors import UsageError
from ptune.formats.bundle import CacheType
from ptune.formats.signature import CacheLayer, Signature, StateLayer

KINDS: tuple[CacheType, ...] = ("float32", "int8")
LAYERS = (CacheLayer(kv_heads=2, key_dim=4, value_dim=3), CacheLayer(kv_heads=1, key_dim=6, value_dim=6))


def signature(context: int) -> Signature:
    return Signature(vocab_size=10, context=context, cache=LAYERS, sockets=())


PER_TOKEN = 4 * (2 * 7 + 12)
PAGE = 1024 * mmap.PAGESIZE // 4096  # tokens: three float32 fill whole pages in no fewer


@given(
    pages=st.integers(1, 300),
    context=st.integers(2, 8192),
    slots=st.integers(1, 64),
    spare=st.integers(1, 60),
)
def test_every_slot_has_the_context_and_the_budget_is_shared(
    pages: int, context: int, slots: int, spare: int
) -> None:
    tokens = pages * PAGE + PAGE // 2
    cache = KvCache.within(tokens * PER_TOKEN, signature(context), slots, spare)
    budget = cache.budget
    assert cache.slots == slots
    assert cache.capacity == min(context, pages * PAGE - spare), "one sequence may have all the memory"
    assert budget.tokens <= tokens
    assert budget.tokens == min(pages * PAGE, slots * budget.slot), "and nothing of it is left unused"
    assert budget.positions(cache.capacity) <= budget.tokens
    assert cache.window(0, 1)["past_key.0"].shape[2] == budget.slot > cache.capacity


def equal_parts(tokens: int, context: int, slots: int) -> KvCache:
    """As where the system takes no memory back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "GIVE_BACK", None)
        return KvCache.within(tokens * PER_TOKEN, signature(context), slots)


@given(tokens=st.integers(2, 100_000), context=st.integers(2, 8192), max_slots=st.integers(1, 64))
def test_equal_parts_are_within_the_budget_and_leave_no_slot_unused(
    tokens: int, context: int, max_slots: int
) -> None:
    cache = equal_parts(tokens, context, max_slots)
    held = sum(array.nbytes for array in cache.window(0, cache.slots).values())
    assert held == cache.slots * (cache.capacity + 1) * PER_TOKEN <= tokens * PER_TOKEN
    assert 1 <= cache.slots <= max_slots
    assert cache.capacity <= context
    assert cache.slots * cache.budget.positions(cache.capacity) <= cache.budget.tokens, "all fit at once"
    if cache.slots < max_slots:  # one more slot would have left all of them too short
        assert tokens // (cache.slots + 1) < min(context, LONG_TOKENS) + 1


def test_of_equal_parts_long_context_gets_fewer_before_short_ones() -> None:
    cache = equal_parts(10_000, 8192, 32)
    assert (cache.slots, cache.capacity) == (4, 2499)


def test_few_addresses_are_divided_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a limit of address space."""

    class Limited(LazyMemory):
        def __init__(self, size_bytes: int) -> None:
            if size_bytes > 20_000 * PER_TOKEN:
                raise MemoryError
            super().__init__(size_bytes)

    monkeypatch.setattr(kv_cache, "LazyMemory", Limited)
    cache = KvCache.within(10_000 * PER_TOKEN, signature(8192), 32)
    assert (cache.slots, cache.capacity) == (4, 2499)
    with pytest.raises(MemoryError):
        KvCache.within(30_000 * PER_TOKEN, signature(8192), 32)


def test_window_is_a_view_of_neighbouring_slots() -> None:
    cache = KvCache(signature(16), slots=4, capacity=16)
    window = cache.window(1, 3)
    assert {name: array.shape for name, array in window.items()} == {
        "past_key.0": (2, 2, PAGE, 4), "past_value.0": (2, 2, PAGE, 3),
        "past_key.1": (2, 1, PAGE, 6), "past_value.1": (2, 1, PAGE, 6),
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


HEADS_OF_64 = Signature(
    vocab_size=10, context=8192, cache=(CacheLayer(kv_heads=3, key_dim=64, value_dim=64),) * 2, sockets=()
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="tells its memory otherwise")


def write(cache: KvCache, slot: int, positions: int) -> None:
    """What a step does."""
    for array in cache.window(slot, slot + 1).values():
        array[:, :, :positions] = 1
    cache.write(np.array([slot]), np.array([positions]))


@linux
def test_memory_is_what_was_written_and_goes_back() -> None:
    """Counted here and by the system, to the byte: writes, reads of what was never written, copies and cuts."""
    cache = KvCache.within(1 << 29, HEADS_OF_64, 32)
    array = cache.window(0, 32)["past_key.0"]
    per_token = HEADS_OF_64.cache_bytes_per_token()
    page = PAGE_BYTES // 256

    def pages(*positions: int) -> int:
        return sum(-(-each // page) * page for each in positions) * per_token

    def now() -> int:
        assert resident_bytes(cache._memory) == cache.resident_bytes
        return cache.resident_bytes

    assert sum(each.nbytes for each in cache.window(0, 32).values()) > 1 << 29, "more than the budget"
    assert now() == 0
    write(cache, 3, 100)
    write(cache, 31, 1)
    assert now() == pages(100, 1)
    assert float(array.sum()) == (100 + 1) * 3 * 64, "all of it was read"
    assert now() == pages(100, 1)
    cache.copy(3, 7, 0, 50)
    assert now() == pages(100, 50, 1)
    cache.cut(3, 64)
    assert now() == pages(64, 50, 1)
    assert float(array[3].sum()) == 64 * 3 * 64, "what is kept is as it was"
    cache.cut(3, 64)
    cache.cut(3, 80)
    for slot in (3, 7, 31):
        cache.cut(slot, 0)
    assert now() == 0
    assert not array.any()
    write(cache, 3, 10)
    assert now() == pages(10)


@linux
def test_many_rounds_leave_nothing() -> None:
    cache, random = KvCache.within(1 << 26, HEADS_OF_64, 4), np.random.default_rng(0)
    for _ in range(30):
        for slot in range(4):
            write(cache, slot, int(random.integers(1, 1500)))
            cache.cut(slot, int(random.integers(0, 1500)))
        assert resident_bytes(cache._memory) == cache.resident_bytes
    for slot in range(4):
        cache.cut(slot, 0)
    assert resident_bytes(cache._memory) == 0


class CacheMachine(RuleBasedStateMachine):
    """Slots are written, copied and cut: what is kept is as it was written, and takes the pages that it lies in."""

    kind: CacheType = "float32"
    slots = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.cache = KvCache(HEADS_OF_64, 4, 300, dtype=self.kind)
        self.kept: list[list[int]] = [[] for _ in range(4)]  # the number at each position
        self.in_memory = [0] * 4  # positions

    @rule(slot=slots, count=st.integers(1, 120), number=st.integers(1, 127))
    def write(self, slot: int, count: int, number: int) -> None:
        start = len(self.kept[slot])
        stop = min(start + count, 300)
        for array in self.cache.window(slot, slot + 1).values():
            array[0, :, start:stop] = number
        self.cache.write(np.array([slot]), np.array([stop]))
        self.kept[slot] += [number] * (stop - start)
        self.in_memory[slot] = max(self.in_memory[slot], stop)

    @rule(source=slots, to=slots)
    def copy(self, source: int, to: int) -> None:
        if source != to:
            self.cache.copy(source, to, 0, len(self.kept[source]))
            self.kept[to] = [*self.kept[source]]
            self.in_memory[to] = max(self.in_memory[to], len(self.kept[source]))

    @rule(slot=slots, share=st.floats(0, 1))
    def cut(self, slot: int, share: float) -> None:
        left = int(len(self.kept[slot]) * share)
        self.cache.cut(slot, left)
        del self.kept[slot][left:]
        self.in_memory[slot] = min(self.in_memory[slot], left)

    @invariant()
    def content_is_kept(self) -> None:
        for array in self.cache.window(0, 4).values():
            assert array.dtype == np.dtype(self.kind)
            for slot, numbers in enumerate(self.kept):
                assert (array[slot, :, : len(numbers)] == np.array(numbers).reshape(1, -1, 1)).all()

    @invariant()
    def memory_is_the_pages(self) -> None:
        bytes_a_position = 64 * {"float32": 4, "int8": 1}[self.kind]
        pages = sum(-(-each * bytes_a_position // PAGE_BYTES) for each in self.in_memory)
        assert self.cache.resident_bytes == pages * PAGE_BYTES * 3 * 2 * 2  # heads, keys and values, layers
        if sys.platform == "linux":
            assert resident_bytes(self.cache._memory) == self.cache.resident_bytes


class Int8CacheMachine(CacheMachine):
    kind = "int8"


WINDOWED = HEADS_OF_64.model_copy(
    update={"cache": (HEADS_OF_64.cache[0], HEADS_OF_64.cache[0].model_copy(update={"window": 20}))}
)


class WindowedCacheMachine(RuleBasedStateMachine):
    """The same with a layer that gives back what its window has gone past, in either type."""

    slots = st.integers(0, 3)

    @initialize(kind=st.sampled_from(KINDS))
    def start(self, kind: CacheType) -> None:
        self.cache = KvCache(WINDOWED, 4, 300, dtype=kind)
        self.kept: list[list[int]] = [[] for _ in range(4)]
        self.in_memory, self.first, self.freed = [0] * 4, [0] * 4, 0
        self.position_bytes = 64 * np.dtype(kind).itemsize

    @rule(slot=slots, count=st.integers(1, 120), number=st.integers(1, 127))
    def write(self, slot: int, count: int, number: int) -> None:
        start = len(self.kept[slot])
        stop = min(start + count, 300)
        for array in self.cache.window(slot, slot + 1).values():
            array[0, :, start:stop] = number
        self.cache.write(np.array([slot]), np.array([stop]))
        self.kept[slot] += [number] * (stop - start)
        self.in_memory[slot] = max(self.in_memory[slot], stop)

    @rule(slot=slots)
    def slide(self, slot: int) -> None:
        behind = self.cache.budget.behind(len(self.kept[slot]))
        assert (
            len(self.kept[slot]) - 20 - self.cache.budget.page < behind <= max(0, len(self.kept[slot]) - 20)
        )
        self.freed += max(0, behind - self.first[slot]) * self.position_bytes * 3 * 2
        self.cache.slide(slot, behind)
        self.first[slot] = max(self.first[slot], behind)

    @rule(source=slots, to=slots)
    def copy(self, source: int, to: int) -> None:
        if source == to:
            return
        self.cache.cut(to, 0)
        self.cache.copy(source, to, 0, len(self.kept[source]))
        self.cache.slide(to, self.first[source])
        self.freed += self.first[source] * self.position_bytes * 3 * 2
        self.kept[to], self.first[to] = [*self.kept[source]], self.first[source]
        self.in_memory[to] = len(self.kept[source])

    @rule(slot=slots)
    def cut(self, slot: int) -> None:
        self.cache.cut(slot, 0)
        self.kept[slot], self.in_memory[slot], self.first[slot] = [], 0, 0

    @invariant()
    def what_windows_see_is_kept(self) -> None:
        for name, array in self.cache.window(0, 4).items():
            for slot, numbers in enumerate(self.kept):
                first = self.first[slot] if name.endswith(".1") else 0
                assert (
                    array[slot, :, first : len(numbers)] == np.array(numbers[first:]).reshape(1, -1, 1)
                ).all()
                assert not array[slot, :, :first].any(), "given back"

    @invariant()
    def memory_is_the_pages(self) -> None:
        def pages(positions: int) -> int:
            return -(-positions * self.position_bytes // PAGE_BYTES) * PAGE_BYTES

        held = sum(
            3 * 2 * (2 * pages(each) - pages(first))
            for each, first in zip(self.in_memory, self.first, strict=True)
        )
        assert self.cache.resident_bytes == held
        assert self.cache.slid_bytes == self.freed
        if sys.platform == "linux":
            assert resident_bytes(self.cache._memory) == held


for machine in (CacheMachine, Int8CacheMachine, WindowedCacheMachine):
    machine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestFloatCache, TestInt8Cache = CacheMachine.TestCase, Int8CacheMachine.TestCase
TestWindowedCache = pytest.mark.skipif(GIVE_BACK is None, reason="takes no memory back")(
    WindowedCacheMachine.TestCase
)


def test_a_page_of_int8_holds_four_times_as_many_positions() -> None:
    assert page_tokens(HEADS_OF_64, 1) == 4 * page_tokens(HEADS_OF_64, 4) == PAGE_BYTES // 64
    floats, small = (KvCache.within(1 << 24, HEADS_OF_64, 8, dtype=kind) for kind in KINDS)
    assert small.budget.tokens == 4 * floats.budget.tokens


STATE = StateLayer(name="layer", shape=(16, 64))  # 4096 bytes


@given(
    kibibytes=st.integers(64, 4000),
    slots=st.integers(1, 40),
    states=st.integers(1, 3),
    attends=st.booleans(),
)
def test_states_are_part_of_the_budget(kibibytes: int, slots: int, states: int, attends: bool) -> None:
    layers = (CacheLayer(kv_heads=1, key_dim=64, value_dim=64),) * attends  # 512 bytes a token
    there = Signature(vocab_size=10, context=64, cache=layers, sockets=(), states=(STATE,) * states)
    row_bytes, budget_bytes = 4096 * states, 1024 * kibibytes
    rows = (budget_bytes // 2 if attends else budget_bytes) // row_bytes
    cache = KvCache.within(budget_bytes, there, slots)
    kept = len(cache.states.snapshots)
    assert 1 <= cache.slots <= slots
    assert kept <= cache.slots
    assert (cache.slots + kept) * row_bytes + 512 * attends * cache.budget.tokens <= budget_bytes
    assert cache.slots == slots or not attends or cache.slots + kept >= rows - 1, "no room is left unused"
    for name, array in cache.window(0, cache.slots).items():
        assert array.shape[0] == cache.slots
        assert "state" not in name or array.shape[1:] == STATE.shape
    cache.window(0, 1)["past_state.0"][:] = 1
    cache.states.copy(0, cache.slots + kept - 1)
    cache.states.begin(0)
    assert cache.window(0, 1)["past_state.0"].max() == 0
    assert cache.states.resident_bytes <= (cache.slots + kept) * row_bytes
    cache.states.free()
    assert cache.states.resident_bytes == 0
