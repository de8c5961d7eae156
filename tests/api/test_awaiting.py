"""Futures of another thread, awaited: in order, a part at a time, and given up together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from ptune.api.awaiting import AT_ONCE, answers_of


def done(value: int) -> Callable[[], Future[int]]:
    future = Future[int]()
    future.set_result(value)
    return lambda: future


def test_answers_come_in_order_however_many_there_are() -> None:
    count = 2 * AT_ONCE + 3
    assert asyncio.run(answers_of([done(number) for number in range(count)])) == list(range(count))
    assert asyncio.run(answers_of([])) == []


def test_a_task_that_is_cancelled_gives_up_what_is_queued() -> None:
    futures = [Future[int]() for _ in range(3)]
    submitted: list[int] = []

    def submit(number: int) -> Callable[[], Future[int]]:
        def one() -> Future[int]:
            submitted.append(number)
            return futures[number]

        return one

    async def asked() -> None:
        task = asyncio.create_task(answers_of([submit(number) for number in range(3)]))
        while len(submitted) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asked())
    assert all(future.cancelled() for future in futures)


def test_where_one_fails_the_others_are_given_up() -> None:
    waiting, failed = Future[int](), Future[int]()
    failed.set_exception(ValueError("no"))

    with pytest.raises(ValueError, match="no"):
        asyncio.run(answers_of([lambda: waiting, lambda: failed]))
    assert waiting.cancelled()


def test_where_one_cannot_be_queued_those_before_it_are_given_up() -> None:
    waiting = Future[int]()

    def refuse() -> Future[int]:
        raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        asyncio.run(answers_of([lambda: waiting, refuse]))
    assert waiting.cancelled()
