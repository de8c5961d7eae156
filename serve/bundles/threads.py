"""Runs what blocks beside an event loop, each time on a thread of its own: one that hangs holds up no other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Threads:
    """Threads under one name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: set[threading.Thread] = set()

    async def run(self, work: Callable[[], Result], /) -> Result:
        """The result of `work`. Raises: what it raises. If the caller is cancelled, it runs on to its end."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(set_result: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                set_result(value)

        def run() -> None:
            try:
                ended, value = future.set_result, work()
            except BaseException as error:
                ended, value = future.set_exception, error  # type: ignore[assignment]
            self._running.discard(threading.current_thread())
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, ended, value)

        thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._running.add(thread)
        thread.start()
        return await future

    def join(self) -> None:
        """Waits until all have ended."""
        for thread in list(self._running):
            thread.join()
