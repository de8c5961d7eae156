"""A socket, and a uvicorn server on it that stops gently: exit code 0 after SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from fastapi import FastAPI

from ptune.errors import PtuneError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 means any free one. Raises: PtuneError where the port is taken or not allowed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PtuneError(
                f"port {port} of {host} is in use; choose another, or 0 for any free one"
            ) from None
        raise PtuneError(f"cannot listen on {host} port {port}: {error}") from None


def url_of(listener: socket.socket) -> str:
    """The address to give to a client on this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _nothing() -> None:
    pass


class Server(uvicorn.Server):
    """Serves until a signal comes; then `drain` runs, while requests are still answered; then it closes.

    uvicorn itself stops answering at once and then dies of the signal (exit code 143). A second signal cancels
    `drain`. `flush_limit_s` is how long connections may take to close after it.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        started: Callable[[], None],
        drain: Callable[[], Awaitable[None]] = _nothing,
        flush_limit_s: int = 5,
    ) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",  # what goes wrong in an app, the app logs itself
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=flush_limit_s,
        )
        super().__init__(config)
        self._on_start = started
        self._drain = drain
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replaces uvicorn's handlers, which would raise the signal again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._drain_and_exit())
        else:
            self._stopping.cancel()

    async def _drain_and_exit(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True
