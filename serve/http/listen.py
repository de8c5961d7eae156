"""A socket, and a uvicorn server on it that shuts down gracefully: exit code 0 after SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import re
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from ptune.errors import PtuneError

from .protocol import MAX_HEAD_BYTES, Addresses, Protocol


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to its port, but not listening yet. Port 0 takes any free port.

    Raises: PtuneError if the port is in use or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with _port_errors(host, port):
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            # Otherwise a restart has to wait until the system forgets old connections.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((host, port))
        except BaseException:
            bound.close()
            raise
    return bound


def start_listening(bound: socket.socket) -> None:
    """Listens on a bound socket. Raises: PtuneError if another socket, bound at the same time, listens already."""
    host, port = bound.getsockname()[:2]
    with _port_errors(host, port):
        bound.listen(2048)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: PtuneError, as `bind`."""
    bound = bind(host, port)
    start_listening(bound)
    return bound


@contextlib.contextmanager
def _port_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OverflowError:
        raise PtuneError(f"port {port} does not exist: a port is a number from 0 to 65535") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PtuneError(
                f"port {port} of {host} is in use; choose another port, or 0 for any free one"
            ) from None
        raise PtuneError(f"cannot listen on {host} port {port}: {error}") from None


def local_names(host: str, bound: socket.socket) -> frozenset[str]:
    """Host names by which a client on this machine can reach a loopback address; empty for any other address."""
    address = bound.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        return frozenset()
    given = (f"[{name}]" if ":" in name else name.lower() for name in (host, address))
    return frozenset({"localhost", "127.0.0.1", "[::1]", *given})


def host_in(header: str) -> str:
    """The name in a `Host` header, without its port, as `local_names` has it."""
    return re.sub(r":\d*$", "", header).lower()


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """The URL for a client on this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def configured(app: FastAPI, *, flush_limit_s: int = 5, per_address: int | None = None) -> uvicorn.Config:
    """uvicorn's configuration for an app. per_address: most connections from one address; None = any number."""
    return uvicorn.Config(
        app,
        http=cast("type[Protocol]", partial(Protocol, addresses=Addresses(per_address))),
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        proxy_headers=False,  # no decision depends on a client's address
        log_config=None,
        log_level="critical",  # the app logs its own errors
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=flush_limit_s,
    )


async def _nothing() -> None:
    pass


class Server(uvicorn.Server):
    """Serves until a signal; then awaits `drain`, while requests are still answered; then closes.

    uvicorn alone would stop answering at once, and die of the signal (exit code 143). A second signal cancels `drain`.
    flush_limit_s: how long connections may take to close after it. reload: called at SIGHUP. tls: of a certificate.
    per_address: most connections from one address.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        started: Callable[[], None],
        drain: Callable[[], Awaitable[None]] = _nothing,
        reload: Callable[[], None] | None = None,
        flush_limit_s: int = 5,
        tls: ssl.SSLContext | None = None,
        per_address: int | None = None,
    ) -> None:
        super().__init__(configured(app, flush_limit_s=flush_limit_s, per_address=per_address))
        self.config.load()
        self.config.ssl = tls
        self._on_start = started
        self._drain = drain
        self._reload = reload
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
        if self._reload is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
