"""Tenants share the engine: simulated traffic, with a clock that goes by what steps compute."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import count

import hypothesis.strategies as st
from hypothesis import given, settings

from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence

SLOTS, CHUNK = 8, 48
PROMPT_COST, OUTPUT_COST = 1, 2  # the paper's; the engine's own are not asked
BASE, SLOPE = 10.0, 0.25  # a step's time, and that of each of its tokens


@dataclass(frozen=True)
class Call:
    at: float
    tenant: str
    prompt: int
    output: int
    weight: float = 1.0


@dataclass
class Served:
    """What became of the calls of a simulation."""

    times: dict[str, list[float]] = field(default_factory=dict)  # of each tenant, from call to last token
    cost: dict[str, float] = field(
        default_factory=dict
    )  # of what was computed, without what was computed again
    preempted: int = 0

    def p95(self, tenant: str) -> float:
        times = sorted(self.times[tenant])
        return times[int(0.95 * (len(times) - 1))]


def simulate(calls: list[Call], until: float) -> Served:
    """Runs a scheduler on calls in order of time."""
    scheduler, found, fresh = Scheduler(SLOTS, CHUNK, len(calls)), Served(), count()
    now, coming, asked = 0.0, list(reversed(calls)), {}
    while (coming or scheduler.busy) and now < until:
        if not scheduler.busy:
            now = max(now, coming[-1].at)
        while coming and coming[-1].at <= now:
            call = coming.pop()
            sequence = TokenSequence(
                [next(fresh) for _ in range(call.prompt)], tenant=call.tenant, weight=call.weight
            )
            asked[sequence] = call
            scheduler.submit(sequence)
        chunks = scheduler.plan()
        scheduler.computed(chunks)
        now += BASE + SLOPE * sum(map(len, chunks))
        ended = []
        for chunk in chunks:
            call = asked[chunk.sequence]
            if chunk.newest:
                chunk.sequence.tokens.append(next(fresh))
                said = len(chunk.sequence.tokens) - call.prompt
                more = OUTPUT_COST + (PROMPT_COST * call.prompt if said == 1 else 0)
                found.cost[call.tenant] = found.cost.get(call.tenant, 0.0) + more
                if said == call.output:
                    ended.append(chunk.sequence)
                    found.times.setdefault(call.tenant, []).append(now - call.at)
        scheduler.release(ended)
    found.preempted = scheduler.preempted
    return found


def traffic(
    seed: int, tenant: str, rate: float, until: float, output: tuple[int, int] = (10, 60)
) -> list[Call]:
    """Calls at random times, so many for each unit of time on average."""
    rng, at, calls = random.Random(seed), 0.0, []
    while (at := at + rng.expovariate(rate)) < until:
        calls.append(Call(at, tenant, rng.randint(20, 200), rng.randint(*output)))
    return calls


def together(*calls: list[Call]) -> list[Call]:
    return sorted((call for some in calls for call in some), key=lambda call: call.at)


UNTIL = 30_000.0
CAPACITY = 0.0118  # calls for each unit of time, when there are always some; see the first test


def test_the_capacity_is_what_it_is_said_to_be() -> None:
    """Of a saturated engine, as the shares below are parts of it."""
    found = simulate(traffic(0, "", 1.0, 2000), UNTIL)
    assert 0.95 < len(found.times[""]) / UNTIL / CAPACITY < 1.05


@settings(max_examples=6, derandomize=True)
@given(seed=st.integers(0, 2**16), load=st.sampled_from([0.3, 0.5, 0.8]))
def test_anothers_flood_costs_a_tenant_no_more_than_anothers_fair_share(seed: int, load: float) -> None:
    """load: what the tenant asks for, of its half; the other takes what is left, or asks for ten times the capacity."""
    until = 2 * UNTIL
    own = traffic(seed, "own", CAPACITY / 2 * load, until)
    fair = traffic(seed + 1, "other", CAPACITY * (1 - load / 2), until)
    flood = traffic(seed + 1, "other", CAPACITY * 10, until)
    expected, found = (simulate(together(own, other), until).p95("own") for other in (fair, flood))
    assert found <= 1.2 * expected


def test_one_request_does_not_wait_behind_a_flood() -> None:
    """A tenant's only request, when another's long answers have all slots and a long queue."""
    flood = [Call(0.0, "flood", 100, 2000) for _ in range(200)]
    alone = simulate([Call(5000.0, "own", 60, 20)], 1e9).times["own"]
    beside = simulate([*flood, Call(5000.0, "own", 60, 20)], 20_000).times["own"]
    assert beside[0] < 3 * alone[0]
    assert beside[0] < 2000 * BASE / 10, "a tenth of what the shortest of the others takes"


@settings(max_examples=5, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    outputs=st.lists(st.sampled_from([(1, 2), (10, 60), (100, 200)]), min_size=2, max_size=4),
)
def test_who_always_asks_is_served_alike(seed: int, outputs: list[tuple[int, int]]) -> None:
    """Tenants with short and long answers, each with a queue that never ends: their costs differ by a bound that does
    not grow with time (the paper's Theorem 4.4 has twice the cost of what all slots can hold)."""
    calls = together(
        *(traffic(seed + place, str(place), 1.0, 2000, output) for place, output in enumerate(outputs))
    )
    bound = 2 * SLOTS * max(200 * PROMPT_COST, max(high for _, high in outputs) * OUTPUT_COST)
    for until in (UNTIL / 2, UNTIL):
        cost = simulate(calls, until).cost
        assert max(cost.values()) - min(cost.values()) <= bound


def test_twice_the_weight_is_twice_the_share() -> None:
    calls = [Call(0.0, "one", 100, 50) for _ in range(2000)] + [
        Call(0.0, "two", 100, 50, weight=2.0) for _ in range(2000)
    ]
    cost = simulate(calls, UNTIL).cost
    assert 1.8 < cost["two"] / cost["one"] < 2.2


def test_rest_is_not_saved_up() -> None:
    """Who has asked for nothing for long is served first, but not alone until it has caught up."""
    busy = [Call(0.0, "busy", 100, 50) for _ in range(2000)]
    back = [Call(UNTIL / 2, "back", 100, 50) for _ in range(1000)]
    before, found = simulate(busy, UNTIL / 2), simulate([*busy, *back], UNTIL)
    assert 0.8 < (found.cost["busy"] - before.cost["busy"]) / found.cost["back"] < 1.25


def test_a_tenant_alone_gives_way_to_nobody() -> None:
    assert simulate(traffic(0, "", 1.0, 500), UNTIL).preempted == 0


def test_many_tenants_that_are_gone_are_forgotten() -> None:
    scheduler = Scheduler(2, 8, 99)
    for number in range(1000):
        sequence = TokenSequence([number] * 4, tenant=str(number))
        scheduler.submit(sequence)
        scheduler.computed(scheduler.plan())
        scheduler.release([sequence])
    assert len(scheduler.waiting._served) < 10
