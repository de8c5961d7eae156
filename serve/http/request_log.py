"""Gives every request an id, counts it and logs it; turns an unexpected exception into a 500 and a line in the log.

The log never holds what a client sent: no prompt, no key, no path that is not a route of the server, and therefore not the
message of an exception either. A client chooses only the id of its request, from a narrow alphabet.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
import uuid
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .context import RequestContext, context_in, has_context, open_context
from .errors import error_response, internal_error
from .telemetry import Answered

if TYPE_CHECKING:
    from ..service import Service

_log = logging.getLogger("ptune.serve")
_access = logging.getLogger("ptune.serve.access")
_LEFT = 499  # nginx's status for a client that disconnected before the response began
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def log_failure(request_id: str, error: BaseException) -> None:
    """Logs where an unexpected exception was raised."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error(
        "request %s failed: %s\n%s",
        request_id,
        type(error).__name__,
        frames,
        extra={"request_id": request_id},
    )


def request_id_of(scope: Scope) -> str:
    """The client's `x-request-id` if it is a plain word of at most 128 characters, else a new one."""
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    return given[0].decode() if len(given) == 1 and _ID.fullmatch(given[0]) else uuid.uuid4().hex


class RequestLog:
    """ASGI middleware around the whole app: opens the `RequestContext`, and adds the headers that all responses have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passed_on = has_context(scope)  # by another app, which counts and logs the request itself
        context = context_in(scope) if passed_on else open_context(scope, request_id_of(scope))
        began_ns, started_s, status = time.time_ns(), time.perf_counter(), 0

        async def send_tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = context.request_id
                headers["x-content-type-options"] = "nosniff"  # a browser must not render what a client sent
                if context.answered_by is not None:
                    headers["x-ptune-adapter"] = context.answered_by
            await send(message)

        try:
            await self._app(scope, receive, send_tagged)
        except ClientDisconnect:
            pass
        except Exception as error:
            log_failure(context.request_id, error)
            if not status:
                failure = error_response(internal_error(context.request_id), scope["path"])
                await failure(scope, receive, send_tagged)
        finally:
            if not passed_on:
                answered = Answered(
                    method=scope["method"] if scope.get("route") else None,
                    route=getattr(scope.get("route"), "path", None),
                    status=status or _LEFT,
                    began_ns=began_ns,
                    first_token_s=context.first_token_after(started_s),
                    seconds=time.perf_counter() - started_s,
                    headers=Headers(scope=scope),
                )
                _record(scope["app"].state.service, context, answered)


def _record(service: Service, context: RequestContext, answered: Answered) -> None:
    """Counts and logs a request, and tells OpenTelemetry of it."""
    service.metrics.responses.sent(answered.route, answered.status)
    fields: dict[str, Any] = {
        "request_id": context.request_id,
        "method": answered.method,
        "route": answered.route,
        "status": answered.status,
        "seconds": round(answered.seconds, 6),
        "adapter": context.answered_by,
        "key": None if context.key is None else context.key.name,
    }
    _access.info("request", extra=fields)
    if service.settings.audit is not None and context.changes is not None:
        known = {name: value for name, value in fields.items() if value is not None}
        service.settings.audit.write({**known, **context.changes})
    if context.unanswered is not None and answered.status >= 400:
        context.unanswered()
    if context.at_end is not None:
        context.at_end(context)
    if service.settings.telemetry is not None:
        service.settings.telemetry.tell(answered, context)
