"""Rejects requests whose framing is ambiguous, before an endpoint or a proxy could read them in two ways."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ptune.errors import RequestError

from .errors import error_response

MAX_HEADERS = 100
_ONCE = (b"host", b"content-length", b"content-type", b"authorization", b"x-api-key")


class RequestFraming:
    """ASGI middleware inside `RequestLog`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = _framing_error(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
        else:
            await error_response(error, scope["path"], {"connection": "close"})(scope, receive, send)


def _framing_error(scope: Scope) -> RequestError | None:
    """Why the headers of a request are refused; None if they are not."""
    headers = scope["headers"]
    if scope["http_version"] not in ("1.0", "1.1"):
        message = f"this is an HTTP/1.1 server (is {scope['http_version'][:8]!r})"
        return RequestError(message, code="unsupported_http_version", status=505)
    if len(headers) > MAX_HEADERS:
        message = f"{len(headers)} headers, over {MAX_HEADERS}"
        return RequestError(message, code="too_many_headers", status=431)
    names = [name for name, _ in headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        # A proxy in front of this server may use the other one, and see another request where this one ends.
        message = "send either Content-Length or Transfer-Encoding, not both"
        return RequestError(message, code="ambiguous_length")
    repeated = next((name for name in _ONCE if names.count(name) > 1), None)
    if repeated is not None:
        message = f"send the header {repeated.decode()} only once"
        return RequestError(message, code="repeated_header")
    return None
