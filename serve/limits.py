"""What a key may use: requests and tokens a minute (token buckets), and requests at the same time.

A bucket holds one minute's worth and fills evenly. Tokens are taken before an answer begins, as many as it may come
to, and what was not used is given back when it ends: requests that come all at once cannot use more than one after
the other. A request that a limit turns away costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ptune.errors import RequestError

from .keys import Key, Limits

Clock = Callable[[], float]  # seconds, never backwards
_ROUNDING = 1e-6  # of a request or a token


class LimitReachedError(RequestError):
    """A key has used what it may. `wait_s`: when to come back."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message, code="rate_limit_exceeded", status=429)
        self.wait_s = wait_s


class Bucket:
    """Something that there is so much of a minute. It may be overdrawn, and then fills up first."""

    def __init__(self, per_minute: int, now_s: float, level: float | None = None) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute) if level is None else min(level, float(per_minute))
        self._seen_s = now_s

    def level(self, now_s: float) -> float:
        """What is there."""
        filled = self._level + max(now_s - self._seen_s, 0.0) * self.per_minute / 60
        self._level, self._seen_s = min(filled, float(self.per_minute)), now_s
        return self._level

    def take(self, amount: float, now_s: float) -> None:
        """Negative amounts give back."""
        self._level = min(self.level(now_s) - amount, float(self.per_minute))

    def wait_s(self, amount: float, now_s: float) -> float:
        """How long until so much is there; 0 where it is. More than a minute's worth is not waited for."""
        missing = min(amount, self.per_minute) - self.level(now_s)
        return missing * 60 / self.per_minute if missing > _ROUNDING else 0.0


class Meter:
    """What one key has used. Its size does not depend on how much that is."""

    def __init__(self, key: Key, clock: Clock) -> None:
        self.clock = clock
        self.running = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.adopt(key)

    def adopt(self, key: Key) -> None:
        """Goes by what the file of keys says now; what was used stays used."""
        self.key = key
        now_s, limits = self.clock(), key.limits
        self.requests = _bucket(limits.requests_per_minute, self.requests, now_s)
        self.tokens = _bucket(limits.tokens_per_minute, self.tokens, now_s)

    @property
    def limits(self) -> Limits:
        return self.key.limits

    def admit(self) -> Lease:
        """Lets one request in. Raises: LimitReachedError, and then nothing has been taken."""
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
        return Lease(self)

    def reserve(self, tokens: int) -> None:
        """Takes tokens that may be needed. Raises: LimitReachedError, and then the request has cost nothing."""
        if self.tokens is None:
            return
        now_s = self.clock()
        if wait_s := self.tokens.wait_s(tokens, now_s):
            if self.requests is not None:
                self.requests.take(-1, now_s)
            asked = f"{self.tokens.per_minute} tokens per minute (this request may need {tokens})"
            raise self._reached(asked, wait_s)
        self.tokens.take(tokens, now_s)

    def headers(self) -> dict[str, str]:
        """OpenAI's: limits, what is left, and when all of it will be there again."""
        now_s, told = self.clock(), {}
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                left = max(math.floor(bucket.level(now_s)), 0)
                told[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
                told[f"x-ratelimit-remaining-{kind}"] = str(left)
                told[f"x-ratelimit-reset-{kind}"] = _duration(bucket.wait_s(bucket.per_minute, now_s))
        return told

    def _reached(self, limit: str, wait_s: float) -> LimitReachedError:
        seconds = max(math.ceil(wait_s), 1)
        return LimitReachedError(
            f"key {self.key.name!r} has reached its limit of {limit}; try again in {seconds} s", wait_s
        )


class Lease:
    """One request's share of a meter, until `release`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._reserved = 0
        self._released = False

    def reserve(self, tokens: int) -> None:
        """Takes the most tokens that the request can come to. Raises: LimitReachedError."""
        self._meter.reserve(tokens)
        self._reserved += tokens

    def release(self, used: int) -> None:
        """Gives the place free and settles the tokens; only the first call does something."""
        if self._released:
            return
        self._released = True
        self._meter.running -= 1
        if self._meter.tokens is not None:
            self._meter.tokens.take(used - self._reserved, self._meter.clock())


def _bucket(per_minute: int | None, before: Bucket | None, now_s: float) -> Bucket | None:
    if per_minute is None:
        return None
    return Bucket(per_minute, now_s, None if before is None else before.level(now_s))


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 20ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
