"""Asks this server itself, in the name of a key: a line of a batch goes the way of any request over HTTP."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..http.context import BATCH_KEY

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

    from ..service import Service


@dataclass(frozen=True)
class Answer:
    """What an endpoint said."""

    status: int
    body: dict[str, Any]
    wait_s: float | None = None  # until the same request may succeed, where it was refused for now


class Ask(Protocol):
    """(key, endpoint, body, request id, left) -> the answer; None if `left` was set before it was there."""

    async def __call__(
        self, key: str, endpoint: str, body: dict[str, Any], request_id: str, left: asyncio.Event
    ) -> Answer | None: ...


class AskApp:
    """Asks an app in the same process."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._host = next(iter(sorted(service.settings.hosts)), "localhost")

    async def __call__(
        self, key: str, endpoint: str, body: dict[str, Any], request_id: str, left: asyncio.Event
    ) -> Answer | None:
        """Sends a body. Setting `left` is what a client does that goes away: the answer is cancelled."""
        unread = [json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()]
        response: dict[str, Any] = {}
        written = bytearray()

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                response.update(message)
            else:
                written.extend(message.get("body", b""))

        await self._app(self._scope(key, endpoint, request_id), receive, send)
        if not response:
            return None
        headers = {name.lower(): value for name, value in response["headers"]}
        wait_s = headers.get(b"retry-after")
        return Answer(response["status"], json.loads(written), None if wait_s is None else float(wait_s))

    def _scope(self, key: str, endpoint: str, request_id: str) -> dict[str, Any]:
        headers = {"host": self._host, "content-type": "application/json", "x-request-id": request_id}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": endpoint,
            "raw_path": endpoint.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": None,
            "server": (self._host, 80),
            BATCH_KEY: key,
        }
