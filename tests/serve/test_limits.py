"""Limits of a key: requests and tokens a minute, requests at once. Time is a number that the tests set."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, Limits, plain
from ptune_serve.access.limits import Account, Bucket, Lease, LimitReachedError, Meter

MESSAGES = [{"role": "user", "content": "hi"}]
PROMPT = len("<user>hi")
ANSWER = len("base heard: hi") + 1  # with the token that ends it


def limited(**limits: int) -> Key:
    return Key("alice", plain("alice").digest, frozenset({"infer"}), limits=Limits(**limits))


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def meter_of(**limits: int) -> tuple[Meter, Clock]:
    clock = Clock()
    return Meter(limited(**limits), clock), clock


def awaited(work: Coroutine[Any, Any, None]) -> None:
    """Runs what may wait for another process, and does not here."""
    with suppress(StopIteration):
        work.send(None)


def acquired(meter: Account) -> Lease:
    lease = Lease(meter)
    awaited(lease.acquire())
    return lease


def release(lease: Lease, used: int) -> None:
    lease.bill(lambda: {"total_tokens": used})
    lease.release()


# The arithmetic.


def test_a_bucket_fills_evenly_up_to_a_minutes_worth():
    bucket = Bucket(60, 0.0)
    bucket.take(60, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(1)
    assert bucket.wait_s(1, 1.0) == 0
    assert bucket.wait_s(30, 10.0) == pytest.approx(20)
    assert bucket.level(10_000.0) == 60


def test_an_overdrawn_bucket_fills_up_first():
    bucket = Bucket(60, 0.0)
    bucket.take(90, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(31)


def test_what_is_more_than_a_minutes_worth_waits_for_a_full_bucket():
    bucket = Bucket(60, 0.0)
    assert bucket.wait_s(1000, 0.0) == 0
    bucket.take(1, 0.0)
    assert bucket.wait_s(1000, 0.0) == pytest.approx(1)


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(60, 100.0)
    bucket.take(60, 100.0)
    assert bucket.level(0.0) == 0


def test_requests_per_minute():
    meter, clock = meter_of(requests_per_minute=2)
    for _ in range(2):
        release(acquired(meter), 0)
    with pytest.raises(LimitReachedError, match="2 requests per minute; try again in 30 s") as raised:
        acquired(meter)
    assert raised.value.wait_s == pytest.approx(30)
    clock.now_s += 30
    release(acquired(meter), 0)
    with pytest.raises(LimitReachedError):
        acquired(meter)


def test_a_request_that_is_turned_away_costs_nothing():
    """LiteLLM counts one that its parallel limit refuses against the requests per minute."""
    meter, _ = meter_of(requests_per_minute=2, concurrent=1)
    running = acquired(meter)
    for _ in range(5):
        with pytest.raises(LimitReachedError, match="1 requests at the same time"):
            acquired(meter)
    release(running, 0)
    release(acquired(meter), 0)
    with pytest.raises(LimitReachedError, match="per minute"):
        acquired(meter)


def test_requests_at_once_cannot_use_more_tokens_than_one_after_the_other():
    """In LiteLLM five requests at once have used six times the limit: each was let in before any was counted."""
    meter, clock = meter_of(tokens_per_minute=100, requests_per_minute=100)
    leases, refused = [], 0
    for _ in range(5):
        lease = acquired(meter)
        try:
            awaited(lease.reserve(40))
            leases.append(lease)
        except LimitReachedError:
            refused += 1
            release(lease, 0)
    assert (len(leases), refused) == (2, 3)
    assert meter.headers()["x-ratelimit-remaining-requests"] == "98"
    for lease in leases:
        release(lease, 10)  # they came to less than they might have
    assert meter.headers()["x-ratelimit-remaining-tokens"] == "80"
    clock.now_s += 60
    assert meter.headers()["x-ratelimit-remaining-tokens"] == "100"


def test_an_answer_longer_than_the_bucket_overdraws_it():
    meter, clock = meter_of(tokens_per_minute=100)
    lease = acquired(meter)
    awaited(lease.reserve(500))
    release(lease, 300)
    with pytest.raises(LimitReachedError) as raised:
        acquired(meter)
    assert raised.value.wait_s == pytest.approx(201 * 60 / 100)
    clock.now_s += 201 * 60 / 100
    acquired(meter)


def test_a_lease_is_released_once():
    meter, _ = meter_of(concurrent=1, tokens_per_minute=100)
    lease = acquired(meter)
    awaited(lease.reserve(50))
    release(lease, 20)
    release(lease, 20)
    assert meter.running == 0
    assert meter.headers()["x-ratelimit-remaining-tokens"] == "80"


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 300), st.floats(0, 30), st.booleans()), max_size=40
    ),
    st.integers(1, 200),
)
def test_over_any_time_no_more_is_used_than_the_limit_allows(steps, per_minute):
    """At most a full bucket, what has flowed in since, and what the last request was larger than the bucket."""
    meter, clock = meter_of(tokens_per_minute=per_minute)
    begun_s, used, largest, waiting = clock.now_s, 0.0, 0, []
    for reserved, actual, pause_s, at_once in steps:
        try:
            lease = acquired(meter)
        except LimitReachedError:
            clock.now_s += pause_s
            continue
        try:
            awaited(lease.reserve(reserved))
        except LimitReachedError:
            release(lease, 0)
        else:
            spent = min(actual, reserved)
            used += spent
            largest = max(largest, spent)
            if at_once:
                waiting.append((lease, spent))
            else:
                release(lease, spent)
        clock.now_s += pause_s
        if not at_once:
            for held, spent in waiting:
                release(held, spent)
            waiting = []
    allowed = per_minute * (1 + (clock.now_s - begun_s) / 60)
    assert used <= allowed + max(largest - per_minute, 0) + 1e-6
    for held, spent in waiting:
        release(held, spent)
    assert meter.running == 0


def test_what_a_meter_holds_does_not_grow():
    meter, _ = meter_of(requests_per_minute=10**9, tokens_per_minute=10**9, concurrent=10)

    def size() -> int:
        parts = [meter, meter.requests, meter.tokens]
        return sum(sys.getsizeof(vars(part)) for part in parts) + len(vars(meter))

    before = size()
    for _ in range(5000):
        lease = acquired(meter)
        awaited(lease.reserve(3))
        release(lease, 2)
    assert size() == before


def test_unknown_keys_leave_nothing_behind():
    keys = ApiKeys((limited(requests_per_minute=1),))
    before = len(keys._meters)
    for number in range(1000):
        with pytest.raises(Exception, match="not known"):
            keys.check(f"Bearer guess-{number}")
    assert len(keys._meters) == before


def test_a_file_read_again_does_not_give_back_what_was_used():
    clock = Clock()
    keys = ApiKeys((limited(requests_per_minute=2, concurrent=1),), clock=clock)
    held = acquired(keys.meter(keys.check("Bearer alice")))
    keys._use((limited(requests_per_minute=4, concurrent=1),))
    with pytest.raises(LimitReachedError, match="same time"):
        acquired(keys.meter(keys.check("Bearer alice")))
    release(held, 0)
    release(acquired(keys.meter(keys.check("Bearer alice"))), 0)
    with pytest.raises(LimitReachedError, match="per minute"):
        acquired(keys.meter(keys.check("Bearer alice")))
    keys._use((plain("other", "other"),))
    assert set(keys._meters) == {"anybody", "other"}


def test_a_key_that_leaves_the_file_while_its_request_is_let_in_is_no_defect():
    keys = ApiKeys((limited(concurrent=1),))
    alice = keys.check("Bearer alice")
    keys._use((plain("other", "other"),))
    release(acquired(keys.meter(alice)), 0)
    assert set(keys._meters) == {"anybody", "other"}
