"""Who may use the studio: this machine alone, or whoever has a key of scope admin. It runs commands, so nobody else."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ptune.errors import RequestError
from ptune_serve.access.auth import ApiKeys, check_scope
from ptune_serve.http.listen import host_in
from ptune_serve.ui.keys import LOGIN, key_in


class KnownHosts:
    """ASGI middleware of a page without keys: refuses names that are not this machine's.

    A page elsewhere can let its own name point here, and would then read ours (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = host_in(_header(scope, b"host"))
        if scope["type"] == "http" and host not in self._names:
            message = f"the studio is not called {host[:80]!r}, but {', '.join(sorted(self._names))}"
            await PlainTextResponse(message, 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class SameOrigin:
    """ASGI middleware: refuses what another page asks for, even where the browser would send a login along."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _header(scope, b"origin")
        if (
            scope["type"] == "http"
            and origin
            and origin.partition("://")[2].lower() != _header(scope, b"host").lower()
        ):
            await PlainTextResponse("the studio answers its own page alone", 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class AskForKey:
    """ASGI middleware: HTTP's own login, with any name and a key of scope admin as the password."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and not self._opens(_header(scope, b"authorization")):
            answer = PlainTextResponse(
                "The studio needs an API key of scope admin as the password.", 401, LOGIN
            )
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _opens(self, authorization: str) -> bool:
        key = key_in(authorization)
        if key is None:
            return False
        try:
            check_scope(self._keys.check(f"Bearer {key}"), "admin")
        except RequestError:
            return False
        return True


def _header(scope: Scope, name: bytes) -> str:
    """A header of a request; empty if there is none."""
    value: bytes = dict(scope.get("headers", ())).get(name, b"")
    return value.decode("latin-1")
