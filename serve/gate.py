"""What stands before every endpoint: requests whose end is unclear are refused, and a key's share is settled at the end."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ptune.errors import RequestError

from .errors import error_response
from .limits import Meter
from .usage import settle

MAX_HEADERS = 100


class Gate:
    """ASGI middleware inside `RequestLog`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = _refused(scope)
        if refused is not None:
            await error_response(refused, {"connection": "close"})(scope, receive, send)
            return

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":
                meter: Meter | None = scope["state"].get("meter")
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = (
                    "nosniff"  # what a client sent and gets back is never a page
                )
                headers.update({} if meter is None else meter.headers())
            await send(message)

        try:
            await self._app(scope, receive, send_told)
        finally:
            settle(scope["state"])


def _refused(scope: Scope) -> RequestError | None:
    """Why a request's headers are not taken."""
    headers = scope["headers"]
    if scope["http_version"] not in ("1.0", "1.1"):
        message = f"this is an HTTP/1.1 server (is {scope['http_version'][:8]!r})"
        return RequestError(message, code="unsupported_http_version", status=505)
    if len(headers) > MAX_HEADERS:
        message = f"{len(headers)} headers, over {MAX_HEADERS}"
        return RequestError(message, code="too_many_headers", status=431)
    names = [name for name, _ in headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        # A proxy before this server may go by the other one, and see another request where this one ends.
        message = "send either Content-Length or Transfer-Encoding, not both"
        return RequestError(message, code="ambiguous_length")
    if any(names.count(name) > 1 for name in (b"host", b"content-length", b"content-type", b"authorization")):
        return RequestError("a header that counts once came twice", code="repeated_header")
    return None
