"""What all replicas count together: the use of keys that have limits, and the metrics of replicas that have ended.

One process holds it. Dividing a key's limits by the number of replicas would be wrong here: the router sends a key's requests
to the few replicas where its adapter is warm. If the ledger dies, Ray starts another, whose buckets are full.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Mapping
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


class Ledger:
    """Keys are known by their names; their limits come with each request, as each replica has read them."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._running: defaultdict[str, Counter[str]] = defaultdict(Counter)  # replica → key → requests
        self._heard_s: dict[str, float] = {}
        self._totals = Totals()

    async def admit(self, key: str, limits: Limits, replica: str) -> Verdict:
        """Counts a request as running."""
        await self.beat(replica)
        self._forget_silent()
        meter = self._meter(key, limits)
        verdict = await _verdict(meter, meter.admit())
        if verdict[1] is None:
            self._running[replica][key] += 1
        return verdict

    async def reserve(self, key: str, limits: Limits, tokens: int) -> Verdict:
        """Takes the tokens that a request may need."""
        meter = self._meter(key, limits)
        return await _verdict(meter, meter.reserve(tokens))

    async def settle(self, key: str, replica: str, reserved: int, used: int) -> None:
        """Counts a request as ended, unless its replica was taken for dead, or the ledger has died since."""
        if self._running[replica][key] > 0:
            self._running[replica][key] -= 1
            self._meters[key].settle(reserved, used)

    async def beat(self, replica: str) -> None:
        """A replica lives."""
        self._heard_s[replica] = self._clock()

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
                for key, count in self._running.pop(replica, Counter[str]()).items():
                    self._meters[key].running -= count


async def _verdict(meter: Meter, step: Awaitable[None]) -> Verdict:
    try:
        await step
    except LimitReachedError as error:
        return meter.headers(), (str(error), error.wait_s)
    return meter.headers(), None


class SharedKeys(ApiKeys):
    """Keys of a replica, whose limits the ledger counts."""

    ledger: DeploymentHandle
    replica: str

    def meter(self, key: Key) -> Account:
        """The meter of a key; without limits there is nothing to ask the ledger for."""
        return (
            super().meter(key) if key.limits == UNLIMITED else LedgerAccount(key, self.ledger, self.replica)
        )


class LedgerAccount:
    """The use of a key by one request, counted by the ledger."""

    def __init__(self, key: Key, ledger: DeploymentHandle, replica: str) -> None:
        self._key, self._ledger, self._replica = key, ledger, replica
        self._headers: dict[str, str] = {}

    async def admit(self) -> None:
        """Raises: LimitReachedError; RequestError(503) if the ledger does not answer."""
        await self._asked(self._ledger.admit.remote(self._key.name, self._key.limits, self._replica))

    async def reserve(self, tokens: int) -> None:
        """Raises: as `admit`."""
        await self._asked(self._ledger.reserve.remote(self._key.name, self._key.limits, tokens))

    def settle(self, reserved: int, used: int) -> None:
        """Tells the ledger, and does not wait for it."""
        self._ledger.settle.remote(self._key.name, self._replica, reserved, used)

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
