"""The ledger without Ray: limits of a key hold over all replicas, and a dead replica's requests end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ptune_serve.access.keys import Limits
from ptune_serve.cluster.ledger import Ledger


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A ledger with a clock that the test sets."""

    def __init__(self, **limits: int) -> None:
        self.clock = Clock()
        self.ledger = Ledger(self.clock)
        self.limits = Limits(**limits)

    def admit(self, replica: str) -> str | None:
        """Why not; None where it may."""
        _, refusal = asyncio.run(self.ledger.admit("alice", self.limits, replica))
        return None if refusal is None else refusal[0]

    def settle(self, replica: str, reserved: int = 0, used: int = 0) -> None:
        asyncio.run(self.ledger.settle("alice", replica, reserved, used))

    def reserve(self, tokens: int) -> Any:
        return asyncio.run(self.ledger.reserve("alice", self.limits, tokens))


def test_requests_of_all_replicas_count() -> None:
    bench = Bench(requests_per_minute=3)
    assert [bench.admit(replica) for replica in ("a", "b", "c")] == [None, None, None]
    assert "3 requests per minute" in (bench.admit("a") or "")
    bench.clock.now_s += 20
    assert bench.admit("b") is None


def test_tokens_reserved_through_one_are_missing_for_another() -> None:
    bench = Bench(tokens_per_minute=100)
    bench.admit("a")
    assert bench.reserve(80)[1] is None
    bench.admit("b")
    headers, (message, wait_s) = bench.reserve(50)
    assert headers["x-ratelimit-remaining-tokens"] == "20"
    assert "100 tokens per minute" in message
    assert wait_s == pytest.approx(18)
    bench.settle("a", reserved=80, used=10)
    assert bench.reserve(50)[1] is None


def test_requests_of_a_replica_that_died_do_not_run_for_ever() -> None:
    bench = Bench(concurrent=2)
    assert [bench.admit("dead"), bench.admit("alive")] == [None, None]
    assert "2 requests at the same time" in (bench.admit("alive") or "")
    bench.clock.now_s += 31
    asyncio.run(bench.ledger.beat("alive"))
    assert bench.admit("alive") is None, "one place is free again"
    assert bench.admit("alive") is not None, "the other is not"
    bench.settle("dead")
    assert bench.admit("alive") is not None, "a late word from the dead one frees nothing twice"


def test_a_limit_that_the_key_file_changes_holds_at_once() -> None:
    bench = Bench(concurrent=1)
    bench.admit("a")
    assert bench.admit("a") is not None
    bench.limits = Limits(concurrent=2)
    assert bench.admit("a") is None
