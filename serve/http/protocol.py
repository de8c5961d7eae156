"""HTTP on one connection: uvicorn's protocol over h11, with deadlines for clients that are slow on purpose.

It uses h11 even if httptools is installed, because h11 limits the size of a request's head and refuses lengths that
two parsers could read differently.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ptune.errors import RequestError

from .error_forms import openai_error

HEAD_LIMIT_S = 20.0
"""How long the head of a request may take from its first byte, and how long a connection may be idle."""
STALL_LIMIT_S = 60.0
"""How long a client may leave a response unread."""
MAX_HEAD_BYTES = 64 * 1024


class Addresses:
    """Counts open connections by the client's address (IPv6: by its first 64 bits, which one client has to itself).

    limit: most of one address; None = any number.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    def enter(self, client: str) -> str:
        """Counts a connection; what it counts as, for `leave`. Raises: RequestError(429) if there are too many."""
        address = ip_address(client.partition("%")[0])
        counted = str(address) if address.version == 4 else address.exploded[:19]
        if self._limit is not None and self._open[counted] >= self._limit:
            message = f"{self._limit} connections from {client} are open already, the most that one address may have"
            raise RequestError(message, code="too_many_connections", status=429)
        self._open[counted] += 1
        return counted

    def leave(self, counted: str) -> None:
        """A connection that was counted has ended."""
        self._open[counted] -= 1
        if not self._open[counted]:
            del self._open[counted]


class Protocol(H11Protocol):
    """One connection. addresses: counts it among those of its client's address."""

    def __init__(self, *given: Any, addresses: Addresses, **named: Any) -> None:
        super().__init__(*given, **named)
        self._addresses = addresses
        self._address: str | None = None  # while it is counted
        self._head = _Deadline()
        self._stall = _Deadline()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_deadline()
        if self.client is not None:
            try:
                self._address = self._addresses.enter(self.client[0])
            except RequestError as error:
                self._answer_and_close(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.end()
        self._stall.end()
        if self._address is not None:
            self._addresses.leave(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answering():
            self._head.end()
        elif not self.transport.is_closing():
            self._start_head_deadline()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.begin(self.loop, STALL_LIMIT_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stall.end()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers an invalid request with an error object, unless a response has begun; then closes the connection."""
        if self._answering():
            self.cycle.disconnected = True  # drops what the endpoint still sends
        self._answer_and_close(RequestError("the request is not valid HTTP", code="invalid_http"))

    def _answer_and_close(self, error: RequestError) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(openai_error(error)).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(
                    status_code=error.status,
                    headers=headers,
                    reason=HTTPStatus(error.status).phrase.encode(),
                ),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _answering(self) -> bool:
        """Whether a request was received and its response is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_head_deadline(self) -> None:
        self._head.begin(self.loop, HEAD_LIMIT_S, self._abort_if_idle)

    def _abort_if_idle(self) -> None:
        if not self._answering():
            self.transport.abort()


class _Deadline:
    """Calls a function unless `end` is called in time."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, seconds: float, missed: Callable[[], None]) -> None:
        """Starts the deadline. If it runs already, nothing changes: a client that sends byte by byte cannot postpone it."""
        if self._timer is None:
            self._timer = loop.call_later(seconds, self._miss, missed)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _miss(self, missed: Callable[[], None]) -> None:
        self._timer = None
        missed()
