"""uvicorn's server without its pauses: it looks ten times a second whether it is to end, and then waits as long again."""

from __future__ import annotations

import asyncio
import socket
import time

import uvicorn

LOOK_S = 0.005


class QuickServer(uvicorn.Server):
    """Runs in a thread of a test, and ends as soon as `end` is called and its connections have ended."""

    _told: asyncio.Event | None = None
    _loop: asyncio.AbstractEventLoop

    def end(self) -> None:
        """From any thread."""
        self.should_exit = True
        if self._told is not None:
            self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Event()
        while not await self.on_tick(0):  # the head Date
            try:
                await asyncio.wait_for(self._told.wait(), 1)
            except TimeoutError:
                continue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own."""
        for one in (*self.servers, *(sockets or ())):
            one.close()
        state = self.server_state
        for connection in [*state.connections]:
            connection.shutdown()
        until_s = time.monotonic() + (self.config.timeout_graceful_shutdown or 0)
        while (state.connections or state.tasks) and time.monotonic() < until_s:
            await asyncio.sleep(LOOK_S)
        for task in state.tasks:
            task.cancel()
        await self.lifespan.shutdown()
