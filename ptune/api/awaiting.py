"""Futures of an engine's thread, awaited from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

Answer = TypeVar("Answer")
AT_ONCE = 64
"""Inputs of one call that are in an engine's queue together: a long call does not fill it."""


async def answers_of(submits: Sequence[Callable[[], Future[Answer]]]) -> list[Answer]:
    """Submits all and waits for their answers, in order. Where one fails, or the task is cancelled, the others are given up.

    submits: each encodes and queues one input; they run on a thread. Raises: what the futures and submits raise.
    """
    answers: list[Answer] = []
    for start in range(0, len(submits), AT_ONCE):
        futures: list[Future[Answer]] = []
        try:
            await asyncio.to_thread(_submit, submits[start : start + AT_ONCE], futures)
            answers += await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for future in futures:
                future.cancel()  # of a finished one this does nothing
    return answers


def _submit(submits: Sequence[Callable[[], Future[Answer]]], futures: list[Future[Answer]]) -> None:
    for submit in submits:
        futures.append(submit())
