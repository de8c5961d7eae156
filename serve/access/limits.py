"""Limits of an API key: requests and tokens per minute (token buckets), and concurrent requests.

A bucket holds one minute's worth and fills evenly. Each request has a `Lease`: it reserves the most tokens that its
answer can use before the answer begins, and returns the unused ones when it ends. So concurrent requests cannot use
more than consecutive ones. A request that a limit refuses costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from ptune.errors import RequestError

from .keys import Key, Limits

Clock = Callable[[], float]  # seconds, never backwards
Usage = Callable[[], dict[str, Any]]  # OpenAI's `usage`, as of now
_ROUNDING = 1e-6  # of a request or a token


class LimitReachedError(RequestError):
    """A key has reached a limit. wait_s: seconds until the request may succeed."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message, code="rate_limit_exceeded", status=429)
        self.wait_s = wait_s


class Bucket:
    """A token bucket. It may be overdrawn; then it has to fill up first."""

    def __init__(self, per_minute: int, now_s: float, level: float | None = None) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute) if level is None else min(level, float(per_minute))
        self._seen_s = now_s

    def level(self, now_s: float) -> float:
        """What the bucket holds."""
        filled = self._level + max(now_s - self._seen_s, 0.0) * self.per_minute / 60
        self._level, self._seen_s = min(filled, float(self.per_minute)), now_s
        return self._level

    def take(self, amount: float, now_s: float) -> None:
        """Takes an amount; a negative amount is returned to the bucket."""
        self._level = min(self.level(now_s) - amount, float(self.per_minute))

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until the bucket holds the amount, or is full if the amount is larger than that; 0 if it does now."""
        missing = min(amount, self.per_minute) - self.level(now_s)
        return missing * 60 / self.per_minute if missing > _ROUNDING else 0.0


class Account(Protocol):
    """Where the use of one key is counted: in this process, or in another for several servers."""

    async def admit(self) -> None:
        """Counts one request as running. Raises: LimitReachedError, and takes nothing."""

    async def reserve(self, tokens: int) -> None:
        """Takes the tokens that a request may need. Raises: LimitReachedError, and returns the request to its bucket."""

    def settle(self, reserved: int, used: int) -> None:
        """Counts a request as ended, and takes the tokens it used in place of those it reserved."""

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-…` headers: the limits, what remains, and when the buckets are full again."""


class Meter:
    """What one key has used of its limits, in constant memory."""

    def __init__(self, key: Key, clock: Clock) -> None:
        self.clock = clock
        self.running = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.adopt(key)

    def adopt(self, key: Key) -> None:
        """Applies the limits that the key file has now; what was used stays used."""
        self.key = key
        now_s, limits = self.clock(), key.limits
        self.requests = _bucket(limits.requests_per_minute, self.requests, now_s)
        self.tokens = _bucket(limits.tokens_per_minute, self.tokens, now_s)

    @property
    def limits(self) -> Limits:
        return self.key.limits

    async def admit(self) -> None:
        """Counts one request as running. Raises: LimitReachedError, and takes nothing."""
        now_s, limits = self.clock(), self.limits
        if limits.concurrent is not None and self.running >= limits.concurrent:
            raise self._reached(f"{limits.concurrent} requests at the same time", 1.0)
        if self.requests is not None and (wait_s := self.requests.wait_s(1, now_s)):
            raise self._reached(f"{self.requests.per_minute} requests per minute", wait_s)
        if self.tokens is not None and (wait_s := self.tokens.wait_s(1, now_s)):
            raise self._reached(f"{self.tokens.per_minute} tokens per minute", wait_s)
        if self.requests is not None:
            self.requests.take(1, now_s)
        self.running += 1

    async def reserve(self, tokens: int) -> None:
        """Takes the tokens that a request may need. Raises: LimitReachedError, and returns the request to its bucket."""
        if self.tokens is None:
            return
        now_s = self.clock()
        if wait_s := self.tokens.wait_s(tokens, now_s):
            if self.requests is not None:
                self.requests.take(-1, now_s)
            limit = f"{self.tokens.per_minute} tokens per minute (this request may need {tokens})"
            raise self._reached(limit, wait_s)
        self.tokens.take(tokens, now_s)

    def settle(self, reserved: int, used: int) -> None:
        """Counts a request as ended, and takes the tokens it used in place of those it reserved."""
        self.running -= 1
        if self.tokens is not None:
            self.tokens.take(used - reserved, self.clock())

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-…` headers: the limits, what remains, and when the buckets are full again."""
        now_s, headers = self.clock(), {}
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                left = max(math.floor(bucket.level(now_s)), 0)
                headers[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{kind}"] = str(left)
                headers[f"x-ratelimit-reset-{kind}"] = _duration(bucket.wait_s(bucket.per_minute, now_s))
        return headers

    def _reached(self, limit: str, wait_s: float) -> LimitReachedError:
        seconds = max(math.ceil(wait_s), 1)
        return LimitReachedError(
            f"key {self.key.name!r} has reached its limit of {limit}; try again in {seconds} s", wait_s
        )


class Lease:
    """One request's share of its key's limits: acquired, reserved, billed and released, in this order."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._held = False
        self._reserved = 0
        self._usage: Usage | None = None

    async def acquire(self) -> None:
        """Counts the request as running. Raises: LimitReachedError."""
        await self._account.admit()
        self._held = True

    async def reserve(self, tokens: int) -> None:
        """Takes the most tokens that the request can use. Raises: LimitReachedError."""
        await self._account.reserve(tokens)
        self._reserved += tokens

    def bill(self, usage: Usage) -> None:
        """Bills the request by the final value of `usage`. A request that fails before this call is not billed."""
        self._usage = usage

    def release(self) -> None:
        """Ends the request, and returns the tokens it did not use. Only the first call has an effect."""
        if self._held:
            self._held = False
            used = 0 if self._usage is None else self._usage()["total_tokens"]
            self._account.settle(self._reserved, used)

    def headers(self) -> dict[str, str]:
        """The limits as they are now, as response headers."""
        return self._account.headers()


def _bucket(per_minute: int | None, before: Bucket | None, now_s: float) -> Bucket | None:
    if per_minute is None:
        return None
    return Bucket(per_minute, now_s, None if before is None else before.level(now_s))


def _duration(seconds: float) -> str:
    """A duration as OpenAI writes it: 20ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
