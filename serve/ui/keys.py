"""Where the server requires API keys, the page does too, by HTTP's own login: any name, and a key as the password.

What a visitor does on the page is then asked of the server with that visitor's key, and so with its limits and adapters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections import OrderedDict
from collections.abc import Generator

import httpx
from gradio.context import LocalContext
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .process import trusted_servers

KNOWN_S = 60.0
"""How long a key that the server has accepted is not checked again."""
MOST_KNOWN = 1000

LOGIN = {"www-authenticate": 'Basic realm="ptune: any name, an API key as the password", charset="UTF-8"'}


def key_in(authorization: str | None) -> str | None:
    """The password of an `Authorization: Basic …` header; None if there is none."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    key = credentials.partition(":")[2]
    return key if key and key.isprintable() else None


def _bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {key}".encode()


class VisitorsKey(httpx.Auth):
    """Sends the key of the visitor whose event gradio is handling; without one the server refuses."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        visitor = LocalContext.request.get(None)
        key = None if visitor is None else key_in(visitor.headers.get("authorization"))
        if key is not None:
            request.headers = httpx.Headers([*request.headers.raw, _bearer(key)])
        yield request


class AskForKey:
    """ASGI middleware: shows the page only to visitors with a key that the server accepts."""

    def __init__(self, app: ASGIApp, server_url: str) -> None:
        self._app = app
        self._http = httpx.AsyncClient(
            base_url=server_url, timeout=10, verify=trusted_servers(), trust_env=False
        )
        self._known: OrderedDict[bytes, float] = OrderedDict()  # digest -> when to check it again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status = await self._status(scope)
        if status == 200:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            away = status not in (401, 403)
            message = "The server does not answer." if away else "This page needs an API key as the password."
            answer = PlainTextResponse(message, 503 if away else 401, headers={} if away else LOGIN)
            await answer(scope, receive, send)

    async def _status(self, scope: Scope) -> int:
        """The status of the server's response to the visitor's key; 0 if it does not answer."""
        headers = dict(scope["headers"])
        key = key_in(headers.get(b"authorization", b"").decode("latin-1"))
        if key is None:
            return 401
        digest, now_s = hashlib.sha256(key.encode()).digest(), time.monotonic()
        if self._known.get(digest, 0.0) > now_s:
            return 200
        try:
            status = (await self._http.get("/v1/models", headers=[_bearer(key)])).status_code
        except httpx.HTTPError:
            return 0
        if status == 200:
            self._known[digest] = now_s + KNOWN_S
            self._known.move_to_end(digest)
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return status
