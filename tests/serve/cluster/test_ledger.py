"""The ledger without Ray: limits of a key hold over all replicas, and no request is counted for ever.

That of a replica that died is not, nor one whose begin or end the ledger hears of late, or never.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from typing import Any

import pytest

from ptune.errors import RequestError
from ptune_serve.access.keys import Key, Limits
from ptune_serve.access.limits import Lease
from ptune_serve.cluster import ledger as ledger_module
from ptune_serve.cluster.ledger import Held, Ledger, LedgerAccount


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
        self.numbers: defaultdict[str, int] = defaultdict(int)  # the newest of each replica

    def admit(self, replica: str) -> str | None:
        """Why not; None where it may."""
        self.numbers[replica] += 1
        admitted = self.ledger.admit("alice", self.limits, replica, self.numbers[replica])
        _, refusal = asyncio.run(admitted)
        return None if refusal is None else refusal[0]

    def settle(self, replica: str, used: int = 0, number: int = 1) -> None:
        asyncio.run(self.ledger.settle(replica, number, used))

    def reserve(self, replica: str, tokens: int) -> Any:
        number = self.numbers[replica]
        return asyncio.run(self.ledger.reserve("alice", self.limits, replica, number, tokens))

    def beat(self, replica: str, *held: int) -> None:
        asyncio.run(self.ledger.beat(replica, frozenset(held), self.numbers[replica]))


def test_requests_of_all_replicas_count() -> None:
    bench = Bench(requests_per_minute=3)
    assert [bench.admit(replica) for replica in ("a", "b", "c")] == [None, None, None]
    assert "3 requests per minute" in (bench.admit("a") or "")
    bench.clock.now_s += 20
    assert bench.admit("b") is None


def test_tokens_reserved_through_one_are_missing_for_another() -> None:
    bench = Bench(tokens_per_minute=100)
    bench.admit("a")
    assert bench.reserve("a", 80)[1] is None
    bench.admit("b")
    headers, (message, wait_s) = bench.reserve("b", 50)
    assert headers["x-ratelimit-remaining-tokens"] == "20"
    assert "100 tokens per minute" in message
    assert wait_s == pytest.approx(18)
    bench.settle("a", used=10)
    assert bench.reserve("b", 50)[1] is None


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


def test_an_end_that_the_ledger_never_hears_of_is_made_up_for_by_the_next_beat() -> None:
    bench = Bench(concurrent=1)
    bench.admit("a")
    bench.beat("a", 1)
    assert bench.admit("a") is not None, "it runs"
    bench.beat("a")
    assert bench.admit("a") is None, "it does not"
    bench.settle("a", number=1)
    assert bench.admit("a") is not None, "a late word frees nothing twice"


def test_a_beat_that_was_sent_before_a_request_does_not_end_it() -> None:
    bench = Bench(concurrent=1)
    asyncio.run(bench.ledger.beat("a", frozenset(), 0))
    bench.admit("a")
    asyncio.run(bench.ledger.beat("a", frozenset(), 0))
    assert bench.admit("a") is not None


def test_a_begin_that_comes_after_its_end_is_made_up_for_by_the_next_beat() -> None:
    bench = Bench(concurrent=1, tokens_per_minute=100)
    bench.settle("a", number=1)
    bench.admit("a")
    bench.beat("a")
    assert bench.reserve("a", 80)[1] is None, "which takes nothing of a request that has ended"
    bench.admit("b")
    headers, refusal = bench.reserve("b", 10)
    assert refusal is None
    assert headers["x-ratelimit-remaining-tokens"] == "90"


class Late:
    """In place of Ray's handle of a ledger: what it is told arrives when `arrive` is called, in any order."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sent: list[Awaitable[Any]] = []
        self._arrived = asyncio.Event()

    def __getattr__(self, method: str) -> Any:
        class Method:
            @staticmethod
            def remote(*given: Any) -> Any:
                call = asyncio.ensure_future(self._later(getattr(self._ledger, method), given))
                self._sent.append(call)
                return asyncio.shield(call)

        return Method

    async def _later(self, method: Any, given: Any) -> Any:
        await self._arrived.wait()
        return await method(*given)

    async def arrive(self) -> None:
        self._arrived.set()
        await asyncio.gather(*self._sent)


@pytest.mark.parametrize("leaves", [False, True], ids=["times out", "its client leaves"])
def test_a_request_that_does_not_wait_for_a_late_ledger_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    monkeypatch.setattr(ledger_module, "_LIMIT_S", 0.02)
    limits = Limits(concurrent=1)
    ledger, held = Ledger(), Held()

    async def ask() -> None:
        late: Any = Late(ledger)
        lease = Lease(LedgerAccount(Key("alice", b"", limits=limits), late, "a", held))
        asking = asyncio.ensure_future(lease.acquire())
        await asyncio.sleep(0)
        if leaves:
            asking.cancel()
        with pytest.raises(asyncio.CancelledError if leaves else RequestError):
            await asking
        lease.release()
        await late.arrive()
        assert held.now() == (frozenset(), 1)
        assert (await ledger.admit("alice", limits, "a", 2))[1] is None

    asyncio.run(ask())
