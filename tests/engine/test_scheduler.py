"""The scheduler as a state machine against a plain model: slots, order, budget, and that nobody starves."""

from __future__ import annotations

from itertools import count

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ptune.engine.scheduler import Chunk, Row, Scheduler


class SchedulerMachine(RuleBasedStateMachine):
    """Rows come, are cancelled, and end after a number of output tokens of their own, as steps go by."""

    @initialize(slots=st.integers(1, 5), chunk=st.integers(1, 9))
    def start(self, slots: int, chunk: int) -> None:
        self.slots, self.chunk = slots, chunk
        self.scheduler = Scheduler(slots, chunk, max_waiting=6)
        self.alive: list[Row] = []  # in order of arrival
        self.fresh = count()
        self.left: dict[Row, int] = {}  # output tokens still to come

    @rule(prompt=st.integers(1, 40), output=st.integers(1, 6))
    def submit(self, prompt: int, output: int) -> None:
        assert self.scheduler.full == (sum(row.slot is None for row in self.alive) >= 6)
        row = Row([next(self.fresh) for _ in range(prompt)])  # nothing is shared: see test_slots
        self.scheduler.submit(row)
        self.alive.append(row)
        self.left[row] = output

    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        if self.alive:
            self.alive[which % len(self.alive)].cancelled = True

    @rule()
    def step(self) -> None:
        cancelled = [row for row in self.alive if row.cancelled]
        assert set(self.scheduler.drop_cancelled()) == set(cancelled)
        self.alive = [row for row in self.alive if not row.cancelled]
        chunks = self.scheduler.plan()
        self.check(chunks)
        self.scheduler.computed(chunks)
        for chunk in chunks:
            if chunk.newest:
                chunk.row.tokens.append(0)
                self.left[chunk.row] -= 1
        ended = [row for row in self.alive if self.left[row] == 0]
        self.scheduler.release(ended)
        self.alive = [row for row in self.alive if row not in ended]

    def check(self, chunks: list[Chunk]) -> None:
        running = self.alive[: self.slots]  # who came first runs
        assert self.scheduler.running == running
        assert {chunk.row for chunk in chunks} <= set(running)
        assert len({chunk.row for chunk in chunks}) == len(chunks)
        counts = {chunk.row: chunk.count for chunk in chunks}
        for chunk in chunks:
            assert chunk.start == chunk.row.cached
            assert 1 <= chunk.count <= chunk.row.uncached
        for row in running:
            if row.uncached == 1:
                assert counts[row] == 1  # a generating row has its token in every step
        prompts = [row for row in running if row.uncached > 1]
        assert sum(counts.get(row, 0) for row in prompts) == min(
            self.chunk, sum(row.uncached for row in prompts)
        )
        if prompts:  # the oldest prompt always goes on, by half of the budget at least
            assert counts[prompts[0]] >= min(prompts[0].uncached, (self.chunk + 1) // 2)

    @rule()
    def drain(self) -> None:
        """Everybody ends within the steps that it takes even if each step computed as little as it may."""
        least = sum(len(row.tokens) + self.left[row] for row in self.alive)
        for _ in range(least):
            self.step()
        assert not self.alive
        assert not self.scheduler.busy

    @invariant()
    def no_slot_leaks(self) -> None:
        if hasattr(self, "scheduler"):
            held = [row.slot for row in self.scheduler.running]
            assert len(set(held)) == len(held)
            assert sorted([*held, *self.scheduler.slots.free]) == list(range(self.slots))
            assert all(row.slot is None for row in self.scheduler.waiting)


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_scheduler = SchedulerMachine.TestCase


def test_the_slot_that_was_freed_longest_ago_is_taken_first() -> None:
    scheduler = Scheduler(slots=4, prefill_chunk=8, max_waiting=8)
    rows = [Row([1, 2]) for _ in range(6)]
    for row in rows[:4]:
        scheduler.submit(row)
    scheduler.plan()
    assert [row.slot for row in rows[:4]] == [0, 1, 2, 3]
    scheduler.release([rows[2], rows[0]])
    for row in rows[4:]:
        scheduler.submit(row)
    scheduler.plan()
    assert [row.slot for row in rows[4:]] == [2, 0]


def test_short_prompt_does_not_wait_behind_a_long_one() -> None:
    scheduler = Scheduler(slots=3, prefill_chunk=100, max_waiting=8)
    long, short, generating = Row([0] * 5000), Row([0] * 40), Row([0])
    for row in (long, short, generating):
        scheduler.submit(row)
    counts = {chunk.row: chunk.count for chunk in scheduler.plan()}
    assert counts == {long: 60, short: 40, generating: 1}


def test_wanted_columns() -> None:
    row = Row([0] * 10)
    assert list(Chunk(row, 0, 6).wanted) == []
    assert list(Chunk(row, 6, 4).wanted) == [3]
    assert list(Chunk(Row([0] * 10, all_logits=True), 2, 3).wanted) == [0, 1, 2]
