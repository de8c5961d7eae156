"""Every response bears an `x-request-id`; every exception nobody expected becomes a 500 and a line in the log.

The log never holds what a client sent: no prompt, no key, and so not an exception's own message either.
"""

from __future__ import annotations

import logging
import traceback
import uuid

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_response, internal_error

_log = logging.getLogger("ptune.serve")


def log_failure(request_id: str, error: BaseException) -> None:
    """Writes where an unexpected exception came from."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error("request %s failed: %s\n%s", request_id, type(error).__name__, frames)


class RequestLog:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_tagged(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if adapter := scope["state"].get("answered_by"):
                    headers["x-ptune-adapter"] = adapter
            await send(message)

        try:
            await self._app(scope, receive, send_tagged)
        except ClientDisconnect:
            pass
        except Exception as error:
            log_failure(request_id, error)
            if not started:
                await error_response(internal_error(request_id))(scope, receive, send_tagged)
