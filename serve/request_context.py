"""What the server knows of one HTTP request besides what the client sent.

`RequestLog` makes the context, the dependencies of an endpoint complete it, and its middleware reads it at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.types import Scope

from .keys import Key
from .limits import Lease

_IN_STATE = "ptune"


@dataclass(slots=True)
class RequestContext:
    """One request."""

    request_id: str
    key: Key | None = None  # once its scope is checked; None at endpoints that are open to all
    lease: Lease | None = None  # at endpoints whose use is limited
    answered_by: str | None = None  # `name@hash12` of the adapter, once it is resolved


def open_context(scope: Scope, request_id: str) -> RequestContext:
    """Puts a new context into an ASGI scope."""
    context = RequestContext(request_id)
    scope.setdefault("state", {})[_IN_STATE] = context
    return context


def context_in(scope: Scope) -> RequestContext:
    """The context of an ASGI scope."""
    context: RequestContext = scope["state"][_IN_STATE]
    return context


def context_of(http: Request) -> RequestContext:
    """The context of a request."""
    return context_in(http.scope)


def key_of(http: Request) -> Key:
    """The API key of a request, at an endpoint that checks one."""
    key = context_of(http).key
    assert key is not None, "this endpoint does not check API keys"
    return key


def lease_of(http: Request) -> Lease:
    """The lease of a request, at an endpoint that acquires one."""
    lease = context_of(http).lease
    assert lease is not None, "this endpoint does not acquire leases"
    return lease
