"""Who may use the studio: this machine alone, or whoever has a key of scope admin. It runs commands, so nobody else."""

from __future__ import annotations

import re

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ptune.errors import RequestError
from ptune_serve.access.auth import ApiKeys, check_scope
from ptune_serve.ui.keys import key_in

_LOGIN = {"www-authenticate": 'Basic realm="ptune: any name, an API key as the password", charset="UTF-8"'}


class KnownHosts:
    """ASGI middleware of a page without keys: refuses names that are not this machine's.

    A page elsewhere can let its own name point here, and would then read ours (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1")).lower()
            if host not in self._names:
                message = f"the studio is not called {host[:80]!r}, but {', '.join(sorted(self._names))}"
                await PlainTextResponse(message, 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class AskForKey:
    """ASGI middleware: HTTP's own login, with any name and a key of scope admin as the password."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and not self._opens(dict(scope["headers"])):
            answer = PlainTextResponse(
                "The studio needs an API key of scope admin as the password.", 401, _LOGIN
            )
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _opens(self, headers: dict[bytes, bytes]) -> bool:
        key = key_in(headers.get(b"authorization", b"").decode("latin-1"))
        if key is None:
            return False
        try:
            check_scope(self._keys.check(f"Bearer {key}"), "admin")
        except RequestError:
            return False
        return True
