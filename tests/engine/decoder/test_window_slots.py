"""Slots of a model some of whose layers see a window, against a plain model: nothing that a query will see is given back, and the
memory is never more than there is."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence

WINDOW, PAGE, SLOTS, SLOT, SPARE = 10, 4, 4, 200, 1
ADAPTERS = (None, Adapter("a", 1, {}, 0))


class Memory:
    """What each slot holds in layers that see all and in those with a window: a number of each token; 0: nothing."""

    def __init__(self) -> None:
        self.whole, self.windowed = np.zeros((SLOTS, SLOT), np.int64), np.zeros((SLOTS, SLOT), np.int64)
        self.first, self.copied_freed = [0] * SLOTS, False

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        self.whole[target, start:stop] = self.whole[source, start:stop]
        first = max(start, self.first[source])
        self.windowed[target, first:stop] = self.windowed[source, first:stop]
        self.first[target] = min(self.first[target], first // PAGE * PAGE)

    def cut(self, slot: int, positions: int) -> None:
        self.whole[slot, positions:] = self.windowed[slot, positions:] = 0
        self.first[slot] = min(self.first[slot], positions)

    def slide(self, slot: int, positions: int) -> None:
        assert positions % PAGE == 0
        self.windowed[slot, :positions] = 0
        self.first[slot] = max(self.first[slot], positions)

    def taken(self, share: Fraction) -> float:
        """Positions in memory, in whole pages; those of windows are so great a share of one."""
        pages = [
            int(array.reshape(-1, PAGE).any(axis=1).sum()) * PAGE for array in (self.whole, self.windowed)
        ]
        return float((1 - share) * pages[0] + share * pages[1])


def mark(sequence: TokenSequence, at: int) -> int:
    return 3 * (sequence.tokens[at] + 1) + (sequence.adapter is not None)


class Other(TokenSequence):
    """Gets its tokens from the beam that brings it."""


class Together(TokenSequence):
    """Two beams: the second is forked from the first now and then."""

    def __init__(self, tokens: list[int], tenant: str) -> None:
        super().__init__(tokens, tenant=tenant)
        self.other = Other([], tenant=tenant)

    @property
    def group(self) -> tuple[TokenSequence, ...]:
        return (self, self.other)


class Model:
    """Computes what the scheduler plans; checks before each chunk that all is there that its queries see."""

    def __init__(self, tokens: int, share: Fraction) -> None:
        self.memory, self.share = Memory(), share
        self.budget = CacheBudget(tokens, PAGE, SPARE, SLOT, WINDOW, share)
        self.scheduler = Scheduler(
            SLOTS,
            16,
            99,
            copy=self.memory.copy,
            cut=self.memory.cut,
            budget=self.budget,
            slide=self.memory.slide,
        )

    def see(self, sequence: TokenSequence) -> None:
        slot, cached = sequence.slot, sequence.cached
        assert slot is not None
        expected = [mark(sequence, at) for at in range(cached)]
        assert self.memory.whole[slot, :cached].tolist() == expected
        first = max(0, cached - WINDOW)
        assert self.memory.windowed[slot, first:cached].tolist() == expected[first:]

    def step(self, random: Random) -> None:
        chunks = self.scheduler.plan()
        for chunk in chunks:
            self.see(chunk.sequence)
        for chunk in chunks:
            sequence, slot = chunk.sequence, chunk.sequence.slot
            for at in range(chunk.start, chunk.start + len(chunk)):
                self.memory.whole[slot, at] = self.memory.windowed[slot, at] = mark(sequence, at)
        assert self.memory.taken(self.share) <= self.budget.tokens
        self.scheduler.computed(chunks)
        for chunk in chunks:
            if chunk.newest and not isinstance(chunk.sequence, Together | Other):
                chunk.sequence.tokens.append(random.randint(0, 1))
        for leader in self.scheduler.running:
            if isinstance(leader, Together) and not any(member.uncached for member in leader.group):
                members = [*leader.group]
                random.shuffle(members)
                if not leader.other.tokens or random.random() < 0.3:
                    source = leader if not leader.other.tokens else members[0]
                    target = leader.other if source is leader else leader
                    self.scheduler.slots.fork(source, target)
                    self.see(target)
                for member in leader.group:
                    member.tokens.append(random.randint(0, 1))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # which beginning
            st.integers(1, 70),
            st.integers(1, 60),
            st.integers(0, 1),
            st.sampled_from("pq"),
            st.sampled_from(["one", "one", "one", "scored", "beams"]),
        ),
        min_size=4,
        max_size=14,
    ),
    st.integers(130, 260),
    st.sampled_from([Fraction(1), Fraction(5, 6), Fraction(1, 2)]),
    st.integers(0, 1000),
)
def test_nothing_that_is_seen_is_given_back(
    made: list[tuple[int, int, int, int, str, str]], tokens: int, share: Fraction, seed: int
) -> None:
    random = Random(seed)
    model = Model(tokens // PAGE * PAGE, share)
    ends: dict[TokenSequence, int] = {}
    for which, length, output, whose, tenant, kind in made:
        text = [(which >> at % 2) & 1 for at in range(length)]
        if kind == "beams":
            sequence: TokenSequence = Together(text[:30], tenant)
            output = min(output, 30)
        else:
            sequence = TokenSequence(text, all_logits=kind == "scored", tenant=tenant)
        sequence.most_tokens = len(sequence.tokens) + output
        for member in sequence.group:
            member.most_tokens = sequence.most_tokens
            member.begin(ADAPTERS[whose])
        ends[sequence] = sequence.most_tokens
        model.scheduler.submit(sequence)
        for _ in range(random.randint(0, 12)):
            run(model, ends, random)
        if random.random() < 0.05:
            model.scheduler.release(model.scheduler.invalidate_cache())
    for _ in range(4000):
        if not model.scheduler.busy:
            break
        run(model, ends, random)
    assert not model.scheduler.busy, "all come to their ends"


def run(model: Model, ends: dict[TokenSequence, int], random: Random) -> None:
    model.step(random)
    over = [one for one in model.scheduler.running if len(one.tokens) >= ends[one] and one.slot is not None]
    model.scheduler.release(over)


def test_windows_give_way_before_anything_else_does() -> None:
    """Two long sequences in memory for one and a half: neither is preempted, since five of six layers forget."""
    random, model = Random(0), Model(120, Fraction(5, 6))
    ends = {}
    for tenant in "pq":
        sequence = TokenSequence([random.randint(0, 1) for _ in range(20)], tenant=tenant, most_tokens=90)
        ends[sequence] = 90
        model.scheduler.submit(sequence)
    while model.scheduler.busy:
        run(model, ends, random)
    assert model.scheduler.preempted == 0
    plain = Model(120, Fraction(0))
    plain.budget = CacheBudget(120, PAGE, SPARE, SLOT)
    plain.scheduler = Scheduler(
        SLOTS, 16, 99, copy=plain.memory.copy, cut=plain.memory.cut, budget=plain.budget
    )
    ends = {}
    for tenant in "pq":
        sequence = TokenSequence([random.randint(0, 1) for _ in range(20)], tenant=tenant, most_tokens=90)
        ends[sequence] = 90
        plain.scheduler.submit(sequence)
    while plain.scheduler.busy:
        run(plain, ends, random)
    assert plain.scheduler.preempted > 0


def test_where_memory_is_there_windows_keep_all() -> None:
    """So a beginning is found again, however far the sequence has gone on."""
    random, model = Random(0), Model(400, Fraction(5, 6))
    first = TokenSequence([random.randint(0, 1) for _ in range(60)])
    model.scheduler.submit(first)
    run(model, {first: 120}, random)
    while model.scheduler.busy:
        run(model, {first: 120}, random)
    assert model.memory.first == [0] * SLOTS
    again = TokenSequence([*first.tokens[:50], 1 - first.tokens[50]])
    model.scheduler.submit(again)
    run(model, {again: 55}, random)
    assert model.scheduler.slots.reused == 50
