"""The count of what is in the cache's memory, against a plain model that writes, copies and forgets place by place."""

from __future__ import annotations

from itertools import count

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.slots import Slots
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence


@given(
    pages=st.integers(1, 60),
    page=st.integers(1, 64),
    spare=st.integers(0, 50),
    slot_pages=st.integers(1, 20),
    sequences=st.integers(1, 8),
)
def test_the_longest_sequences_fit_and_longer_ones_do_not(
    pages: int, page: int, spare: int, slot_pages: int, sequences: int
) -> None:
    budget = CacheBudget(pages * page, page, spare, slot_pages * page)
    longest = budget.longest(sequences)
    assert sequences * budget.positions(longest) <= budget.tokens
    assert longest >= budget.slot or sequences * budget.positions(longest + 1) > budget.tokens


def test_what_a_sequence_takes() -> None:
    budget = CacheBudget(tokens=1000, page=16, spare=2, slot=112)
    assert [budget.positions(tokens) for tokens in (0, 1, 14, 15, 100, 112)] == [0, 16, 16, 32, 112, 112]


class SlotsMachine(RuleBasedStateMachine):
    """Sequences come, grow, are copied and end; prefixes are kept and evicted."""

    @initialize(
        count=st.integers(1, 5),
        page=st.sampled_from([1, 4, 16]),
        spare=st.integers(0, 5),
        slot_pages=st.integers(4, 40),
        part=st.floats(0, 1),
    )
    def start(self, count: int, page: int, spare: int, slot_pages: int, part: float) -> None:
        slot = slot_pages * page
        tokens = slot + int(part * (count - 1) * slot_pages) * page
        self.budget = CacheBudget(tokens, page, spare, slot)
        self.slots = Slots(count, self.copy, self.cut, self.budget)
        self.content: list[list[int]] = [[] for _ in range(count)]
        self.resident = [0] * count  # positions
        self.running: list[TokenSequence] = []

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        assert source != target
        assert stop <= len(self.content[source]), "what is copied is in memory"
        self.content[target][start:] = self.content[source][start:stop]
        self.touch(target, stop)

    def cut(self, slot: int, positions: int) -> None:
        assert positions % self.budget.page == 0
        del self.content[slot][positions:]
        self.resident[slot] = min(self.resident[slot], positions)

    def touch(self, slot: int, positions: int) -> None:
        page = self.budget.page
        self.resident[slot] = max(self.resident[slot], -(-min(positions, self.budget.slot) // page) * page)
        assert sum(self.resident) <= self.budget.tokens

    def compute(self, sequence: TokenSequence) -> None:
        assert sequence.slot is not None
        self.content[sequence.slot][sequence.cached :] = sequence.tokens[sequence.cached :]
        self.touch(sequence.slot, len(sequence.tokens) + self.budget.spare)
        sequence.cached = len(sequence.tokens)

    @precondition(lambda self: bool(self.slots))
    @rule(beginning=st.integers(0, 2), length=st.integers(1, 600), last=st.integers(0, 3))
    def admit(self, beginning: int, length: int, last: int) -> None:
        tokens = [*[beginning] * (min(length, self.budget.longest()) - 1), last]
        sequence = TokenSequence(tokens)
        if self.slots.positions(sequence) <= self.slots.unclaimed:
            self.slots.allocate(sequence)
            assert sequence.slot is not None
            assert self.content[sequence.slot][: sequence.cached] == tokens[: sequence.cached]
            self.compute(sequence)
            self.running.append(sequence)

    @precondition(lambda self: bool(self.running))
    @rule(which=st.integers(0, 9), more=st.integers(1, 40))
    def grow(self, which: int, more: int) -> None:
        sequence = self.running[which % len(self.running)]
        more = min(more, self.budget.longest() - len(sequence.tokens))
        sequence.tokens += [9] * more
        before = sum(self.slots._held[slot] for slot in self.slots._busy)
        if self.slots.grow(sequence):
            self.compute(sequence)
        else:
            assert sequence.slot is not None
            missing = self.slots.positions(sequence) - self.slots._held[sequence.slot]
            assert before + missing > self.budget.tokens, "prefixes give way first"
            del sequence.tokens[len(sequence.tokens) - more :]

    @precondition(lambda self: bool(self.running))
    @rule(which=st.integers(0, 9), computed=st.floats(0, 1))
    def end(self, which: int, computed: float) -> None:
        sequence = self.running.pop(which % len(self.running))
        sequence.cached = int(computed * sequence.cached)  # a failed one keeps nothing
        self.slots.give_back(sequence)

    @precondition(lambda self: len(self.running) > 1)
    @rule(one=st.integers(0, 9), other=st.integers(0, 9))
    def fork(self, one: int, other: int) -> None:
        source, target = self.running[one % len(self.running)], self.running[other % len(self.running)]
        if source is not target and len(source.tokens) <= len(
            target.tokens
        ):  # both have the memory, as beams do
            self.slots.fork(source, target)
            assert target.slot is not None
            assert self.content[target.slot][: target.cached] == source.tokens

    @rule()
    def fail(self) -> None:
        self.slots.clear()
        assert all(not self.resident[slot] for slot in self.slots.free)

    @invariant()
    def counted(self) -> None:
        if hasattr(self, "slots"):
            assert all(held >= there for held, there in zip(self.slots._held, self.resident, strict=True)), (
                "what is in memory is counted"
            )
            assert sum(self.slots._held) <= self.budget.tokens
            for slot, tokens, *_ in self.slots._contents(TokenSequence([])):
                assert self.content[slot][: len(tokens)] == tokens, "what may be found is in memory"


SlotsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_slots = SlotsMachine.TestCase


def scheduler(budget: CacheBudget, slots: int = 4) -> Scheduler:
    return Scheduler(slots, 256, 99, budget=budget)


FRESH = count()  # nothing begins alike


def step(scheduler: Scheduler) -> None:
    chunks = scheduler.plan()
    scheduler.computed(chunks)
    for chunk in chunks:
        if chunk.newest:
            chunk.sequence.tokens.append(next(FRESH))


def asked(prompt: int, most: int, tenant: str = "") -> TokenSequence:
    return TokenSequence([next(FRESH) for _ in range(prompt)], tenant=tenant, most_tokens=most)


def test_sequences_start_while_there_is_memory_and_not_only_slots() -> None:
    there = scheduler(CacheBudget(tokens=400, page=1, slot=400))
    long, short, tiny = asked(300, 310), asked(150, 160), asked(20, 30)
    for sequence in (long, short, tiny):
        there.submit(sequence)
    step(there)
    assert there.running == [long], "the second waits for memory, and nobody overtakes it"
    there.release([long])
    step(there)
    assert there.running == [short, tiny]


def test_one_who_grows_takes_kept_prefixes_before_it_takes_from_others() -> None:
    there = scheduler(CacheBudget(tokens=1000, page=1, slot=1000))
    past = asked(600, 700)
    there.submit(past)
    step(there)
    there.release([past])
    one, other = asked(10, 900), asked(10, 900)
    for sequence in (one, other):
        there.submit(sequence)
    while len(one.tokens) + len(other.tokens) < 1000:
        step(there)
        assert there.running == [one, other]
    assert there.preempted == 0
    step(there)
    step(there)
    assert there.preempted == 1
    assert len(there.running) == 1
    assert len(there.waiting) == 1


def test_all_end_though_together_they_do_not_fit() -> None:
    """Nobody is preempted for ever: the one that began first ends, whoever else comes."""
    there = scheduler(CacheBudget(tokens=320, page=16, spare=2, slot=320))
    waiting = [asked(40, 300, tenant) for tenant in ("a", "b", "a", "c", "b", "a")]
    left = list(waiting)
    for sequence in waiting:
        there.submit(sequence)
    for _ in range(20_000):
        step(there)
        over = [sequence for sequence in there.running if len(sequence.tokens) == sequence.most_tokens]
        there.release(over)
        left = [sequence for sequence in left if sequence not in over]
        if not left:
            break
    assert not left
    assert there.preempted > 0


def test_a_tenant_gets_memory_that_another_holds_with_few_sequences() -> None:
    """Two sequences with all the memory count as all slots, though they take two of eight."""
    there = scheduler(CacheBudget(tokens=800, page=1, slot=800), slots=8)
    for _ in range(2):
        there.submit(asked(390, 400, "flood"))
    step(there)
    step(there)
    assert len(there.running) == 2
    small = asked(20, 40, "other")
    there.submit(small)
    step(there)
    assert small in there.running
    assert there.preempted == 1


@pytest.mark.parametrize("drafts", [0, 4])
def test_drafts_only_where_there_is_memory(drafts: int) -> None:
    class Drafting(TokenSequence):
        def draft(self, most: int) -> tuple[int, ...]:
            return (1,) * min(most, 4)

    there = Scheduler(2, 256, 99, 8, budget=CacheBudget(tokens=100 + drafts, page=1, slot=999))
    sequence = Drafting(list(range(36)), most_tokens=999)
    there.submit(sequence)
    while len(sequence.tokens) < 100:
        step(there)
    [chunk] = there.plan()
    assert len(chunk) == 1 + drafts
