"""What all replicas count together: the use of keys that have limits, and the metrics of replicas that have ended.

One process holds it. Dividing a key's limits by the number of replicas would be wrong here: the router sends a key's requests
to the few replicas where its adapter is warm. If the ledger dies, Ray starts another, whose buckets are full.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.errors import RequestError

from ..access.auth import ApiKeys
from ..access.keys import UNLIMITED, Key, Limits
from ..access.limits import Account, Clock, LimitReachedError, Meter
from .exposition import Totals

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

SILENT_S = 30
"""A replica that says nothing for so long is gone, and its requests with it."""
BEAT_S = 5
_LIMIT_S = 5  # how long a request waits for the ledger
_log = logging.getLogger("ptune.serve")
Verdict = tuple[dict[str, str], tuple[str, float] | None]
"""The limits as headers; why the request is refused, and in how many seconds it may succeed."""


@dataclass
class _Counted:
    """A request that the ledger counts as running, and the tokens that it has reserved."""

    key: str
    reserved: int = 0


class Ledger:
    """Keys are known by their names; their limits come with each request, as each replica has read them.

    A replica numbers its requests, and each beat says which of them still run. So a word that comes late or never, of a
    request's begin or of its end, is put right by the next beat.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._running: dict[str, dict[int, _Counted]] = {}  # replica → number → request
        self._heard_s: dict[str, float] = {}
        self._totals = Totals()

    async def admit(self, key: str, limits: Limits, replica: str, number: int) -> Verdict:
        """Counts a request as running."""
        self._heard_s[replica] = self._clock()
        self._forget_silent()
        meter = self._meter(key, limits)
        verdict = await _verdict(meter, meter.admit())
        if verdict[1] is None:
            self._running.setdefault(replica, {})[number] = _Counted(key)
        return verdict

    async def reserve(self, key: str, limits: Limits, replica: str, number: int, tokens: int) -> Verdict:
        """Takes the tokens that a request may need; nothing for one that is not counted (any longer)."""
        meter, counted = self._meter(key, limits), self._running.get(replica, {}).get(number)
        if counted is None:
            return meter.headers(), None
        verdict = await _verdict(meter, meter.reserve(tokens))
        if verdict[1] is None:
            counted.reserved += tokens
        return verdict

    async def settle(self, replica: str, number: int, used: int) -> None:
        """Counts a request as ended, unless its replica was taken for dead, or the ledger has died since."""
        counted = self._running.get(replica, {}).pop(number, None)
        if counted is not None:
            self._meters[counted.key].settle(counted.reserved, used)

    async def beat(self, replica: str, held: frozenset[int] = frozenset(), newest: int = 0) -> None:
        """A replica lives. held: the numbers of its requests that run, up to the newest that it had given by then."""
        self._heard_s[replica] = self._clock()
        running = self._running.get(replica, {})
        self._forget(running, [number for number in running if number <= newest and number not in held])

    async def add_up(self, expositions: Mapping[str, bytes]) -> bytes:
        """The metrics of all replicas as one; what replicas that have ended have counted stays counted."""
        return self._totals.of(expositions)

    def _meter(self, key: str, limits: Limits) -> Meter:
        known = Key(key, b"", limits=limits)
        meter = self._meters.setdefault(key, Meter(known, self._clock))
        if meter.limits != limits:
            meter.adopt(known)
        return meter

    def _forget_silent(self) -> None:
        """Ends the requests of replicas that have died."""
        for replica, heard_s in list(self._heard_s.items()):
            if self._clock() - heard_s > SILENT_S:
                del self._heard_s[replica]
                running = self._running.pop(replica, {})
                self._forget(running, list(running))

    def _forget(self, running: dict[int, _Counted], numbers: Sequence[int]) -> None:
        """Ends requests of which nobody says what they used: that is taken to be what they had reserved."""
        for number in numbers:
            counted = running.pop(number)
            self._meters[counted.key].settle(counted.reserved, counted.reserved)


async def _verdict(meter: Meter, step: Awaitable[None]) -> Verdict:
    try:
        await step
    except LimitReachedError as error:
        return meter.headers(), (str(error), error.wait_s)
    return meter.headers(), None


class Held:
    """The numbers of a replica's requests that the ledger may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = 0
        self._numbers: set[int] = set()

    def begin(self) -> int:
        """The number of a request that begins."""
        with self._lock:
            self._newest += 1
            self._numbers.add(self._newest)
            return self._newest

    def end(self, number: int) -> None:
        """A request has ended; it may have done so before."""
        with self._lock:
            self._numbers.discard(number)

    def now(self) -> tuple[frozenset[int], int]:
        """The numbers of those that run, and the newest of all."""
        with self._lock:
            return frozenset(self._numbers), self._newest


class SharedKeys(ApiKeys):
    """Keys of a replica, whose limits the ledger counts."""

    ledger: DeploymentHandle
    replica: str
    held: Held

    def meter(self, key: Key) -> Account:
        """The meter of a key; without limits there is nothing to ask the ledger for."""
        if key.limits == UNLIMITED:
            return super().meter(key)
        return LedgerAccount(key, self.ledger, self.replica, self.held)

    def beat(self) -> None:
        """Tells the ledger that the replica lives, and which requests run."""
        self.ledger.beat.remote(self.replica, *self.held.now())


class LedgerAccount:
    """The use of a key by one request, counted by the ledger."""

    def __init__(self, key: Key, ledger: DeploymentHandle, replica: str, held: Held) -> None:
        self._key, self._ledger, self._replica, self._held = key, ledger, replica, held
        self._number = 0  # until it is admitted
        self._headers: dict[str, str] = {}

    async def admit(self) -> None:
        """Raises: LimitReachedError; RequestError(503) if the ledger does not answer."""
        key, self._number = self._key, self._held.begin()
        try:
            await self._asked(self._ledger.admit.remote(key.name, key.limits, self._replica, self._number))
        except LimitReachedError:  # which counts nothing
            self._held.end(self._number)
            raise
        except (
            BaseException
        ):  # also of a client that leaves: a ledger that is late may count the request all the same
            self.settle(0, 0)
            raise

    async def reserve(self, tokens: int) -> None:
        """Raises: as `admit`."""
        key = self._key
        await self._asked(
            self._ledger.reserve.remote(key.name, key.limits, self._replica, self._number, tokens)
        )

    def settle(self, reserved: int, used: int) -> None:
        """Tells the ledger, which knows what was reserved, and does not wait for it."""
        self._held.end(self._number)
        self._ledger.settle.remote(self._replica, self._number, used)

    def headers(self) -> dict[str, str]:
        """The limits as the ledger last told them."""
        return self._headers

    async def _asked(self, verdict: Any) -> None:
        try:
            self._headers, refusal = await asyncio.wait_for(verdict, _LIMIT_S)
        except Exception as error:  # it is being replaced, or does not answer in time
            _log.warning("the ledger does not answer: %s", type(error).__name__)
            message = "the limits of keys cannot be checked at the moment"
            raise RequestError(message, code="limits_unknown", status=503) from None
        if refusal is not None:
            raise LimitReachedError(*refusal)
