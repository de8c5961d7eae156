"""Slots that lose what they hold to a folder, as a state machine against a plain model: what is found was computed, whoever lost it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.engine.adapters.digest import digest_of
from ptune.engine.adapters.lora import Adapter
from ptune.engine.adapters.prefix import Prefix
from ptune.engine.decoder.cache import idle, kv_blocks
from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.idle import Idle
from ptune.engine.decoder.cache.kv_blocks import Block, Owner, blocks_of
from ptune.engine.decoder.cache.slots import Slots
from ptune.engine.decoder.sequence import TokenSequence

ADAPTERS = (None, Adapter("a", 1, {}, 0), Adapter("late", 2, {}, 0, invocation=(1, 1)))
SLOTS, MEMORY, PIECE = 3, 150, 8


@pytest.fixture(scope="module", autouse=True)
def short_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_blocks, "BLOCK_TOKENS", PIECE)
        patch.setattr(idle, "BLOCK_TOKENS", PIECE)
        patch.setattr(idle, "WORTH_READING", 1)
        yield


class Held:
    """What each slot holds: a number for each position, that says of which token under which adapter it comes; 0: nothing."""

    def __init__(self) -> None:
        self.slots = np.zeros((SLOTS, 400), np.int64)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        self.slots[target, start:stop] = self.slots[source, start:stop]

    def cut(self, slot: int, positions: int) -> None:
        self.slots[slot, positions:] = 0

    def packed_bytes(self, tokens: int) -> int:
        return 8 * tokens

    def packed(self, slot: int, start: int, stop: int) -> np.ndarray[Any, Any]:
        return self.slots[slot, start:stop].copy().view(np.uint8)

    def unpack(self, slot: int, start: int, stop: int, content: np.ndarray[Any, Any]) -> None:
        self.slots[slot, start:stop] = content.view(np.int64)


class Files:
    """A folder that sometimes takes nothing, and sometimes has lost what it took."""

    def __init__(self, fails: Iterator[bool]) -> None:
        self.there: dict[str, tuple[bytes, np.ndarray[Any, Any]]] = {}
        self._fails = fails

    def has(self, block: Block) -> bool:
        return block.key in self.there

    def used(self, block: Block) -> None:
        assert block.key in self.there

    def put(self, block: Block, content: np.ndarray[Any, Any], *, wait: bool = False) -> bool:
        if next(self._fails) and not wait:
            return False
        self.there[block.key] = block.tokens, content
        return True

    def get(self, block: Block, size_bytes: int) -> np.ndarray[Any, Any] | None:
        tokens, content = self.there[block.key]
        assert tokens == block.tokens
        assert content.nbytes == size_bytes
        return None if next(self._fails) else content


def marks(sequence: TokenSequence, whose: int) -> list[int]:
    """Of each of its tokens."""
    return [
        10 * (token + 1) + (whose if at >= sequence.acts_from else 0)
        for at, token in enumerate(sequence.tokens)
    ]


sequences = st.tuples(
    st.lists(st.integers(0, 1), max_size=6),  # how it begins
    st.integers(1, 60),
    st.integers(0, 2),
    st.sampled_from("pq"),
    st.booleans(),
    st.integers(0, 3),
)


@settings(deadline=None)
@given(st.lists(sequences, max_size=40), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.2]))
def test_what_is_found_was_computed(
    made: list[tuple[list[int], int, int, str, bool, int]], random: Any, failing: float
) -> None:
    held, fails = Held(), iter(lambda: random.random() < failing, None)
    files = Files(fails)
    slots_idle = Idle(files, held, b"model")  # type: ignore[arg-type]
    slots = Slots(SLOTS, held.copy, held.cut, CacheBudget(tokens=MEMORY), idle=slots_idle)
    running, done = list[TokenSequence](), list[TokenSequence]()
    for beginning, length, whose, tenant, scored, ends in made:
        tokens = (beginning * 60 + [0, 1] * 30)[:length]
        sequence = TokenSequence(tokens, all_logits=scored, tenant=tenant)
        sequence.begin(ADAPTERS[whose])
        while running and (not slots or slots.unclaimed < slots.positions(sequence)):
            slots.give_back(running.pop(0))
        slots.allocate(sequence)
        slot, expected = sequence.slot, marks(sequence, whose)
        assert slot is not None
        while sequence in slots.read_on():
            assert held.slots[slot, : sequence.cached].tolist() == expected[: sequence.cached]
            if random.random() < 0.1:
                break  # and is given back in the middle of it, or goes on later
        assert 0 <= sequence.cached <= (0 if scored else len(tokens) - 1)
        assert held.slots[slot, : sequence.cached].tolist() == expected[: sequence.cached]
        if not slots.on_disk(sequence):
            held.slots[slot, sequence.cached : len(tokens)] = expected[sequence.cached :]
            sequence.cached = len(tokens)
            done.append(sequence)
        running.append(sequence)
        for _ in range(min(ends, len(running))):
            slots.give_back(running.pop())
    for sequence in running:
        slots.give_back(sequence)
    slots.leave_all()
    if not failing:
        for sequence in done:
            assert all(map(files.has, blocks_of(sequence.tokens, slots_idle.owner(sequence), b"model"))), (
                "none is lost"
            )


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.integers(0, 3), max_size=40),
    st.tuples(*[st.sampled_from([(b"", 99), (b"a", 0), (b"a", 11), (b"b", 11), (b"b", 16)])] * 2),
    st.tuples(*[st.sampled_from("pq")] * 2),
)
def test_blocks_have_one_name_where_they_are_the_same(
    one: list[int], other: list[int], adapters: Any, tenants: tuple[str, str]
) -> None:
    """The same tokens up to their ends, of one tenant, and under one adapter from the same token on."""
    owners = [Owner(tenant, *adapter) for tenant, adapter in zip(tenants, adapters, strict=True)]
    first, second = (
        [*blocks_of(text, owner, b"m")] for text, owner in zip((one, other), owners, strict=True)
    )
    assert [block.number for block in first] == [*range(len(one) // PIECE)]
    for mine in first:
        for theirs in second:
            same_text = mine.stop == theirs.stop and one[: mine.stop] == other[: mine.stop]
            acts = [
                (owner.adapter, owner.acts_from) if owner.acts_from < mine.stop else None for owner in owners
            ]
            same = same_text and acts[0] == acts[1] and tenants[0] == tenants[1]
            assert (mine.key == theirs.key) == same
    assert not {block.key for block in first} & {block.key for block in blocks_of(one, owners[0], b"n")}


def test_an_adapter_is_what_it_adds() -> None:
    def adapter(name: str = "a", value: float = 1.0, rank: int = 1, **other: Any) -> Adapter:
        factors = {"q": (np.full((3, rank), value, np.float32), np.ones((rank, 3), np.float32))}
        return Adapter(name, rank, factors, 0, **other)

    one = digest_of(adapter())
    assert one == digest_of(adapter("another name"))
    others = [
        adapter(value=1.5), adapter(rank=2), adapter(invocation=(7,)), adapter(biased=True),
        adapter(gains={"q.gain": np.ones(3, np.float32)}), adapter(prefix=Prefix(2, {"k": np.zeros((1, 2, 3), np.float32)})),
    ]  # fmt: skip
    assert len({one, b"", *map(digest_of, others)}) == len(others) + 2
