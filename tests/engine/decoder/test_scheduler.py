"""The scheduler as a state machine against a plain model: slots, order, budget, and that nobody starves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ptune.engine.decoder.fairness import MOST_PREEMPTED
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.errors import RequestError

TENANTS = ("", "a", "b")


class Together(TokenSequence):
    """A sequence that brings others: they go on from its prompt, then each by a token of its own when all have come so far."""

    def __init__(self, tokens: list[int], brings: int, tenant: str, weight: float) -> None:
        super().__init__(tokens, tenant=tenant, weight=weight)
        self.brought = [TokenSequence([], tenant=tenant, weight=weight) for _ in range(brings)]

    @property
    def group(self) -> tuple[TokenSequence, ...]:
        return (self, *self.brought)

    def go_on(self, fork: Callable[[TokenSequence, TokenSequence], None], fresh: Iterator[int]) -> None:
        for sequence in self.brought:
            if not sequence.tokens:
                fork(self, sequence)
        for sequence in self.group:
            sequence.tokens.append(next(fresh))


class SchedulerMachine(RuleBasedStateMachine):
    """Sequences of three tenants come, are cancelled, and end after a number of output tokens of their own, as steps go by."""

    @initialize(
        slots=st.integers(1, 7),
        chunk=st.integers(1, 9),
        weights=st.tuples(*[st.sampled_from([0.5, 1.0, 2.0])] * 3),
    )
    def start(self, slots: int, chunk: int, weights: tuple[float, ...]) -> None:
        self.slots, self.chunk = slots, chunk
        self.weights = dict(zip(TENANTS, weights, strict=True))
        self.scheduler = Scheduler(slots, chunk, max_waiting=6)
        self.alive: list[TokenSequence] = []  # in order of arrival
        self.fresh = count()
        self.left: dict[TokenSequence, int] = {}  # output tokens still to come
        self.begun: list[TokenSequence] = []

    @rule(
        tenant=st.sampled_from(TENANTS),
        prompt=st.integers(1, 40),
        output=st.integers(1, 6),
        scored=st.booleans(),
    )
    def submit(self, tenant: str, prompt: int, output: int, scored: bool) -> None:
        tokens = [next(self.fresh) for _ in range(prompt)]  # nothing is shared: see test_slots
        sequence = TokenSequence(tokens, all_logits=scored, tenant=tenant, weight=self.weights[tenant])
        self.scheduler.submit(sequence)
        self.alive.append(sequence)
        self.left[sequence] = output

    @rule(
        tenant=st.sampled_from(TENANTS),
        prompt=st.integers(1, 20),
        output=st.integers(1, 6),
        brings=st.integers(1, 4),
    )
    def submit_together(self, tenant: str, prompt: int, output: int, brings: int) -> None:
        tokens = [next(self.fresh) for _ in range(prompt)]
        sequence = Together(tokens, min(brings, self.slots - 1), tenant, self.weights[tenant])
        self.scheduler.submit(sequence)
        self.alive.append(sequence)
        self.left[sequence] = output

    @rule(which=st.integers(0, 99), expired=st.booleans())
    def give_up(self, which: int, expired: bool) -> None:
        if self.alive:
            setattr(self.alive[which % len(self.alive)], "expired" if expired else "cancelled", True)

    @rule()
    def step(self) -> None:
        over = [sequence for sequence in self.alive if sequence.ended]
        assert set(self.scheduler.drop_ended()) == set(over)
        self.alive = [sequence for sequence in self.alive if not sequence.ended]
        chunks = self.scheduler.plan()
        self.check(chunks)
        self.scheduler.computed(chunks)
        for chunk in chunks:
            if chunk.newest and chunk.sequence in self.left and not isinstance(chunk.sequence, Together):
                chunk.sequence.tokens.append(next(self.fresh))
                chunk.sequence.all_logits = False
                self.left[chunk.sequence] -= 1
        for sequence in self.scheduler.running:
            if isinstance(sequence, Together) and not any(member.uncached for member in sequence.group):
                sequence.go_on(self.scheduler.slots.fork, self.fresh)
                self.left[sequence] -= 1
        ended = [sequence for sequence in self.alive if self.left[sequence] == 0]
        self.scheduler.release(ended)
        self.alive = [sequence for sequence in self.alive if sequence not in ended]

    def check(self, chunks: list[Chunk]) -> None:
        running, computing = self.scheduler.running, self.scheduler.computing
        free = self.slots - len(computing)
        assert free >= 0
        if self.scheduler.waiting and free:  # kept for whose turn it is
            assert len(self.scheduler.waiting.queues()[0][0].group) > free
        assert set(running) | set(self.scheduler.waiting) == set(self.alive)
        for tenant in TENANTS:  # who came first has begun first
            new = [
                sequence for sequence in self.alive if sequence.tenant == tenant and not sequence.preempted
            ]
            assert [sequence in running for sequence in new] == sorted(
                (sequence in running for sequence in new), reverse=True
            )
        assert {chunk.sequence for chunk in chunks} <= set(computing)
        assert len({chunk.sequence for chunk in chunks}) == len(chunks)
        counts = {chunk.sequence: chunk.count for chunk in chunks}
        for chunk in chunks:
            assert chunk.start == chunk.sequence.cached
            assert 1 <= chunk.count <= chunk.sequence.uncached
        for sequence in computing:
            assert sequence.billed_tokens <= len(sequence.tokens)
            if sequence.uncached == 1:
                assert counts[sequence] == 1  # a generating sequence has its token in every step
        self.check_prompts([sequence for sequence in computing if sequence.uncached > 1], counts)

    def check_prompts(self, prompts: list[TokenSequence], counts: dict[TokenSequence, int]) -> None:
        assert sum(counts.get(sequence, 0) for sequence in prompts) == min(
            self.chunk, sum(sequence.uncached for sequence in prompts)
        )
        weights = sum(self.weights[tenant] for tenant in {sequence.tenant for sequence in prompts})
        for tenant in TENANTS:
            own = [sequence for sequence in prompts if sequence.tenant == tenant]
            if own:  # each tenant has its share, and of that its oldest prompt half
                share = int(self.chunk * self.weights[tenant] / weights)
                assert sum(counts.get(sequence, 0) for sequence in own) >= min(
                    share, sum(sequence.uncached for sequence in own)
                )
                assert counts.get(own[0], 0) >= min(own[0].uncached, (share + 1) // 2)

    @rule()
    def drain(self) -> None:
        """Everybody ends within the steps that it takes even if each step computed as little as it may."""
        tokens = sum(
            (len(sequence.tokens) + self.left[sequence]) * len(sequence.group) for sequence in self.alive
        )
        least = tokens * (1 + MOST_PREEMPTED)
        for _ in range(least):
            self.step()
        assert not self.alive
        assert not self.scheduler.busy

    @invariant()
    def no_slot_leaks(self) -> None:
        if hasattr(self, "scheduler"):
            held = [sequence.slot for sequence in self.scheduler.computing]
            assert len(set(held)) == len(held)
            assert Counter([*held, *self.scheduler.slots.free]) == Counter(range(self.slots))
            waiting = [member for sequence in self.scheduler.waiting for member in sequence.group]
            assert all(sequence.slot is None and sequence.cached == 0 for sequence in waiting)
            assert all(sequence.preempted <= MOST_PREEMPTED for sequence in self.alive)


SchedulerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30)
test_scheduler = SchedulerMachine.TestCase


def test_the_slot_that_was_freed_longest_ago_is_taken_first() -> None:
    scheduler = Scheduler(slots=4, prefill_chunk=8, max_waiting=8)
    sequences = [TokenSequence([1, 2]) for _ in range(6)]
    for sequence in sequences[:4]:
        scheduler.submit(sequence)
    scheduler.plan()
    assert [sequence.slot for sequence in sequences[:4]] == [0, 1, 2, 3]
    scheduler.release([sequences[2], sequences[0]])
    for sequence in sequences[4:]:
        scheduler.submit(sequence)
    scheduler.plan()
    assert [sequence.slot for sequence in sequences[4:]] == [2, 0]


@pytest.mark.parametrize("tenant", ["", "other"])
def test_who_needs_many_slots_is_not_overtaken_for_ever(tenant: str) -> None:
    """Sequences of one slot come without end; three slots are kept as they become free."""
    scheduler = Scheduler(3, 8, 99)
    for _ in range(3):
        scheduler.submit(TokenSequence([1], tenant=tenant))
    scheduler.plan()
    search = Together([2, 3], 2, "", 1.0)
    scheduler.submit(search)
    for ended in list(scheduler.running):
        assert search.slot is None
        scheduler.submit(TokenSequence([4], tenant=tenant))
        scheduler.release([ended])
        scheduler.plan()
    assert scheduler.running == [search]
    assert sorted(sequence.slot for sequence in search.group if sequence.slot is not None) == [0, 1, 2]


def test_rows_together_are_charged_their_prompt_once() -> None:
    scheduler, fresh = Scheduler(3, 8, 99), count()
    search = Together(list(range(100, 110)), 2, "", 1.0)
    scheduler.submit(search)
    for output in (0, 0, 1, 2):
        scheduler.computed(scheduler.plan())
        assert (
            scheduler.waiting.served("") == 10 + 3 * output * 2
        )  # a token of output costs twice one of the prompt
        if not search.uncached:
            search.go_on(scheduler.slots.fork, fresh)


def test_rows_together_give_way_together() -> None:
    scheduler, fresh = Scheduler(5, 8, 99), count()
    searches = [Together([number], 1, "flood", 1.0) for number in range(2)]
    for search in searches:
        scheduler.submit(search)
    scheduler.computed(scheduler.plan())
    for search in searches:
        search.go_on(scheduler.slots.fork, fresh)
    for _ in range(2):
        scheduler.submit(TokenSequence([9], tenant="other"))
        scheduler.plan()
    assert scheduler.preempted == 1
    [waits] = [search for search in searches if search.slot is None]
    assert [(sequence.slot, sequence.cached, len(sequence.tokens)) for sequence in waits.group] == [
        (None, 0, 2)
    ] * 2
    assert len(scheduler.computing) == 4


def test_as_many_give_way_as_are_needed_or_nobody() -> None:
    def with_rows_of(tenant: str, many: int) -> Scheduler:
        scheduler = Scheduler(6, 8, 99)
        for number in range(6):
            scheduler.submit(TokenSequence([number], tenant=tenant))
        scheduler.plan()
        scheduler.submit(Together([7, 8], many - 1, "other", 1.0))
        scheduler.plan()
        return scheduler

    fits = with_rows_of("flood", 3)
    assert (fits.preempted, len(fits.running), len(fits.computing)) == (3, 4, 6)
    more_than_its_share = with_rows_of("flood", 4)
    assert (more_than_its_share.preempted, len(more_than_its_share.running)) == (0, 6)


def test_short_prompt_does_not_wait_behind_a_long_one() -> None:
    scheduler = Scheduler(slots=3, prefill_chunk=100, max_waiting=8)
    long, short, generating = TokenSequence(list(range(5000))), TokenSequence([-1] * 40), TokenSequence([-2])
    for sequence in (long, short, generating):
        scheduler.submit(sequence)
    counts = {chunk.sequence: chunk.count for chunk in scheduler.plan()}
    assert counts == {long: 60, short: 40, generating: 1}


def test_wanted_columns() -> None:
    sequence = TokenSequence([0] * 10)
    assert list(Chunk(sequence, 0, 6).wanted) == []
    assert list(Chunk(sequence, 6, 4).wanted) == [3]
    assert list(Chunk(TokenSequence([0] * 10, all_logits=True), 2, 3).wanted) == [0, 1, 2]


def step(scheduler: Scheduler) -> dict[TokenSequence, int]:
    """One step in which each sequence says a token of its own; how many tokens of each were computed."""
    chunks = scheduler.plan()
    scheduler.computed(chunks)
    for chunk in chunks:
        if chunk.newest:
            chunk.sequence.tokens.append(id(chunk.sequence) + len(chunk.sequence.tokens))
    return {chunk.sequence: chunk.count for chunk in chunks}


def test_prompts_that_begin_alike_are_computed_once() -> None:
    """Also those that come together; another tenant's, and those under another adapter, do not wait for them."""
    copies: list[tuple[int, int, int, int]] = []
    scheduler = Scheduler(8, 30, 99, copy=lambda *copied: copies.append(copied))
    prompt = list(range(100))
    siblings = [TokenSequence([*prompt]) for _ in range(4)]
    longer, stranger, short = (
        TokenSequence([*prompt, 7, 8, 9]),
        TokenSequence([*prompt], tenant="b"),
        TokenSequence(prompt[:10]),
    )
    scored = TokenSequence([*prompt], all_logits=True)
    for sequence in (*siblings, longer, stranger, short, scored):
        scheduler.submit(sequence)
    step(scheduler)
    assert set(scheduler.running) == {siblings[0], stranger, short, scored}
    while siblings[0].uncached > 1:
        assert all(sequence.slot is None for sequence in (*siblings[1:], longer))
        step(scheduler)
    step(scheduler)
    assert [sequence.cached for sequence in siblings[1:]] == [100] * 3, "one token was computed"
    assert longer.cached > 100
    assert scheduler.slots.reused == 3 * 99 + 100
    assert len(copies) == 4


def test_who_waits_for_a_prompt_goes_on_when_that_is_given_up() -> None:
    scheduler = Scheduler(4, 10, 99)
    first, second = TokenSequence(list(range(50))), TokenSequence(list(range(50)))
    for sequence in (first, second):
        scheduler.submit(sequence)
    step(scheduler)
    first.cancelled = True
    assert scheduler.drop_ended() == [first]
    step(scheduler)
    assert second.slot is not None
    assert scheduler.slots.reused == 10, "what was computed by then"


def room(scheduler: Scheduler, tenant: str) -> bool:
    try:
        scheduler.require_room(tenant)
    except RequestError as error:
        return (error.status, error.code) != (429, "queue_full")
    return True


@pytest.mark.parametrize("most", [0, 1, 2, 6, 64])
def test_one_tenant_alone_may_fill_the_queue(most: int) -> None:
    scheduler = Scheduler(1, 8, most)
    for _ in range(most):
        assert room(scheduler, "")
        scheduler.submit(TokenSequence([1]))
    assert not room(scheduler, "")


def test_a_flood_is_refused_and_others_still_get_in() -> None:
    scheduler = Scheduler(1, 8, 64)
    while room(scheduler, "flood"):
        scheduler.submit(TokenSequence([1], tenant="flood"))
    assert len(scheduler.waiting) == 64
    for tenant in ("a", "b"):
        while room(scheduler, tenant):
            scheduler.submit(TokenSequence([1], tenant=tenant))
        assert scheduler.waiting.waiting(tenant) == 8
    for tenant in map(str, range(100)):
        while room(scheduler, tenant):
            scheduler.submit(TokenSequence([1], tenant=tenant))
    assert len(scheduler.waiting) == 128, "however many tenants there are"


def test_after_a_failed_step_what_can_be_is_computed_again() -> None:
    scheduler = Scheduler(4, 8, 99)
    plain, scored, fresh = (
        TokenSequence(list(range(40))),
        TokenSequence(list(range(50, 90)), all_logits=True),
        TokenSequence([1, 2]),
    )
    for sequence in (plain, scored):
        scheduler.submit(sequence)
    while not scored.cached:
        step(scheduler)
    scheduler.submit(fresh)
    scheduler.plan()
    assert scheduler.invalidate_cache() == [scored], "it has told logits of its prompt"
    assert plain.cached == fresh.cached == 0
    assert not any(scheduler.slots._free.values())
    scheduler.release([scored])
    while plain.uncached > 1:
        step(scheduler)
