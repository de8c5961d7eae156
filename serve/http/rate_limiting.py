"""Rate limits on HTTP: a request acquires a lease of its key's limits before the endpoint, and releases it at the end.

In between, whatever runs the request on an engine reserves tokens and says what to bill (`openai/response`, `encoders/call`).
"""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..access.limits import Lease
from .context import context_in, context_of, key_of
from .dependencies import ServiceDep


async def acquire_lease(http: Request, service: ServiceDep) -> None:
    """A dependency of endpoints that use the engine. Raises: LimitReachedError."""
    if context_of(http).lease is not None:  # the app that passes this request on has acquired it
        return
    lease = Lease(service.settings.api_keys.meter(key_of(http)))
    context_of(http).lease = lease  # first: the response to a refused request shows the limits, too
    await lease.acquire()


class LeaseRelease:
    """ASGI middleware: adds the limits to the response's headers, and releases the lease when the response has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_in(scope)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and context.lease is not None:
                MutableHeaders(scope=message).update(context.lease.headers())
            await send(message)

        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            if context.lease is not None:
                context.lease.release()
