"""Every response bears an `x-request-id`; every exception nobody expected becomes a 500 and a line in the log.

The log never holds what a client sent: no prompt, no key, no path that is none of the server's, and so not an exception's own
message either. The one thing that a client chooses is its request's id, within a narrow alphabet.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
import uuid
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_response, internal_error

_log = logging.getLogger("ptune.serve")
_access = logging.getLogger("ptune.serve.access")
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def log_failure(request_id: str, error: BaseException) -> None:
    """Writes where an unexpected exception came from."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error(
        "request %s failed: %s\n%s",
        request_id,
        type(error).__name__,
        frames,
        extra={"request_id": request_id},
    )


def request_id_of(scope: Scope) -> str:
    """The client's own `x-request-id` where it is a plain word of at most 128 letters, else a new one."""
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    return given[0].decode() if len(given) == 1 and _ID.fullmatch(given[0]) else uuid.uuid4().hex


class RequestLog:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        began_s, status = time.perf_counter(), 0

        async def send_tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
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
            if not status:
                await error_response(internal_error(request_id))(scope, receive, send_tagged)
        finally:
            _tell(scope, status, time.perf_counter() - began_s)


def _tell(scope: Scope, status: int, seconds: float) -> None:
    """Counts and logs a request. Status 499, as nginx has it, is that of a client that went away before its answer began."""
    route = getattr(scope.get("route"), "path", None)
    status = status or 499
    scope["app"].state.service.metrics.responses.sent(route, status)
    said: dict[str, Any] = {
        "request_id": scope["state"]["request_id"],
        "method": scope["method"] if route else None,
        "route": route,
        "status": status,
        "seconds": round(seconds, 6),
        "adapter": scope["state"].get("answered_by"),
        "key": getattr(scope["state"].get("key"), "name", None),
    }
    _access.info("request", extra=said)
