"""How much of the batches may be computed at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress


class Places:
    """A number of places, given to those who ask first. Who leaves instead of waiting on takes none."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = asyncio.Semaphore(count)
        self._turn = asyncio.Lock()  # one at a time collects places, so that two never wait for each other's

    async def take(self, many: int, left: asyncio.Event) -> bool:
        """Waits for `many` places, at most all there are; False, and none is taken, if `left` is set first."""
        if left.is_set() or not await _unless(left, self._turn.acquire()):
            return False
        try:
            for taken in range(min(many, self.count)):
                if not await _unless(left, self._free.acquire()):
                    self.give(taken)
                    return False
        finally:
            self._turn.release()
        return True

    def give(self, many: int) -> None:
        """Gives places back, as many as were asked for."""
        for _ in range(min(many, self.count)):
            self._free.release()


async def pause(seconds: float, left: asyncio.Event) -> bool:
    """Waits; False if `left` is set first."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await left.wait()
    return not left.is_set()


async def _unless(left: asyncio.Event, acquiring: Awaitable[bool]) -> bool:
    """Acquires; False, and nothing is acquired, if `left` is set first."""
    taking, leaving = asyncio.ensure_future(acquiring), asyncio.ensure_future(left.wait())
    try:
        await asyncio.wait({taking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return taking.done()
    finally:
        leaving.cancel()
        if not taking.done():
            taking.cancel()
