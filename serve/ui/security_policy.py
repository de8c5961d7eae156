"""Forbids the browser to load anything from other servers."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .style import CONTENT_SECURITY_POLICY


class SecurityPolicy:
    """ASGI middleware: sends the policy with each response that has none of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault(
                    "content-security-policy", CONTENT_SECURITY_POLICY
                )  # unless it has one of its own
            await send(message)

        await self._app(scope, receive, send_guarded)
