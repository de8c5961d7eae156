"""Bodies of Ollama's API: its documentation sends them with `curl -d`, which does not say that they are JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from ..http.body import Body, body_of, require_json
from ..http.dependencies import ServiceDep


def ollama_body_of(kind: type[Body]) -> Callable[[Request, ServiceDep], Awaitable[Body]]:
    """As `body_of`, for a body of any content type unless a browser sends it. Raises: RequestError (400, 408, 413, 415)."""
    return body_of(kind, require_json_of_browsers)


def require_json_of_browsers(request: Request) -> None:
    """Raises: RequestError(415). A browser says `Origin` with whatever a page posts to another site."""
    if any(name == "origin" or name.startswith("sec-fetch-") for name in request.headers):
        require_json(request)
