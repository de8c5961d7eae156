"""One HTTP request through an ASGI app, as a generator: what a replica yields, an ingress elsewhere sends on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Scope

REPLICA_HEADER = b"x-ptune-replica"
"""Of each response: which replica answered."""
_PLAIN = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
_LEAVE_S = 5  # how long an app may take to notice that its client is gone


class Start(NamedTuple):
    """The beginning of a response."""

    status: int
    headers: list[tuple[bytes, bytes]]


class End(NamedTuple):
    """The last piece of a body. Where it is known by that, a replica that dies right after it has lost nothing."""

    piece: bytes


Part = Start | bytes | End
Refusal = tuple[str, str | None, int]
"""An error's message, code and status."""


def portable(scope: Scope) -> dict[str, Any]:
    """What another process needs of an ASGI scope."""
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    return {name: scope[name] for name in _PLAIN if name in scope} | {"headers": headers}


async def answered(app: ASGIApp, scope: dict[str, Any], body: bytes) -> AsyncGenerator[Part, None]:
    """What the app answers to a request: a `Start`, then the body in pieces, the last as an `End`.

    To the app, a generator that is closed is a client that has disconnected.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app({**scope, "asgi": {"version": "3.0"}}, receive, messages.put)
        finally:
            messages.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        while (message := await messages.get()) is not None:
            if message["type"] == "http.response.start":
                yield Start(message["status"], list(message["headers"]))
            elif not message.get("more_body", False):
                yield End(bytes(message.get("body", b"")))
            elif piece := message.get("body", b""):
                yield bytes(piece)
        await running
    finally:
        gone.set()
        if not running.done():
            await asyncio.wait({running}, timeout=_LEAVE_S)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
