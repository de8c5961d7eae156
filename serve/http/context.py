"""What the server knows of one HTTP request besides what the client sent.

`RequestLog` makes the context, the dependencies of an endpoint complete it, and its middleware reads it at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fastapi import Request
from starlette.types import Scope

from ..access.keys import Key
from ..access.limits import Lease

if TYPE_CHECKING:
    from ..engine_call import EngineCall
    from ..rollout.waiting import Awaited

_IN_STATE = "ptune"
BATCH_KEY = "ptune.batch_key"
"""In the scope of a line of a batch, which this process asks itself: the name of the key that the batch belongs to."""
_BATCH_WEIGHT = 0.1  # of a batch beside its key's other requests


@dataclass(slots=True)
class RequestContext:
    """One request."""

    request_id: str
    key: Key | None = None  # once it is known; None at endpoints that are open to all
    lease: Lease | None = None  # at endpoints whose use is limited
    asked_for: str | None = None  # the model in the request, once it is known to be one of the server's
    answered_by: str | None = None  # `name@hash12` of the adapter, once it is resolved
    changes: dict[str, str] | None = None  # what a request of an administrator is about; None = it is none
    at_end: Callable[[RequestContext], None] | None = None  # called when the response has been sent
    awaited: Awaited | None = None  # its answer, where a trial waits to hear how good it is
    unanswered: Callable[[], None] | None = None  # called where the response is an error
    call: EngineCall | None = None  # its work on the engine, once that has begun

    def first_token_after(self, started_s: float) -> float | None:
        """Seconds from a moment of `time.perf_counter` to the first token, if there was one."""
        first_s = None if self.call is None else self.call.first_token_s
        return None if first_s is None else first_s - started_s


def open_context(scope: Scope, request_id: str) -> RequestContext:
    """Puts a new context into an ASGI scope."""
    context = RequestContext(request_id)
    scope.setdefault("state", {})[_IN_STATE] = context
    return context


def has_context(scope: Scope) -> bool:
    """Whether an ASGI scope has a context: another app of this process has opened it, and passes the request on."""
    return _IN_STATE in scope.get("state", {})


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


class Share(NamedTuple):
    """Who pays for a request in the engine, and how much of it that one gets beside others."""

    tenant: str
    weight: float


def share_of(http: Request) -> Share:
    """The share of a request. Batches are tenants of their own, which give way to whoever waits for an answer."""
    key = key_of(http)
    if BATCH_KEY in http.scope:
        return Share(f"{key.name}/batches", key.weight * _BATCH_WEIGHT)
    return Share(key.name, key.weight)


def lease_of(http: Request) -> Lease:
    """The lease of a request, at an endpoint that acquires one."""
    lease = context_of(http).lease
    assert lease is not None, "this endpoint does not acquire leases"
    return lease
