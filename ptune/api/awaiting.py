"""Awaits futures of an engine's thread from an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
AT_ONCE = 64
"""Most inputs of one call in an engine's queue at a time, so that a long call does not fill it."""


async def answers_of(submits: Sequence[Callable[[], Future[Answer]]]) -> list[Answer]:
    """Submits all inputs and returns their answers in order. If one fails or the task is cancelled, the others are cancelled.

    submits: each encodes and queues one input, on a thread. Raises: the errors of the futures and submits.
    """
    answers: list[Answer] = []
    for start in range(0, len(submits), AT_ONCE):
        part = _Part(submits[start : start + AT_ONCE])
        try:
            await asyncio.to_thread(part.submit)
            answers += await asyncio.gather(*map(asyncio.wrap_future, part.futures))
        finally:
            part.give_up()
    return answers


class _Part(Generic[Answer]):
    """Inputs that are submitted on a thread, which may still be running when they are cancelled."""

    def __init__(self, submits: Sequence[Callable[[], Future[Answer]]]) -> None:
        self._submits = submits
        self._gone = threading.Event()
        self.futures: list[Future[Answer]] = []

    def submit(self) -> None:
        for submit in self._submits:
            if self._gone.is_set():
                return
            future = submit()
            self.futures.append(future)
            if self._gone.is_set():
                future.cancel()

    def give_up(self) -> None:
        """Cancels all unfinished inputs."""
        self._gone.set()
        for future in [*self.futures]:
            future.cancel()
