"""From a request to its key: what it may ask for, its share of the limits, and what it used in the end."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi import Request as HttpRequest

from ptune.errors import RequestError

from .keys import Key
from .limits import Lease

if TYPE_CHECKING:
    from .service import Listing, Service

Usage = Callable[[], dict[str, int]]  # OpenAI's object, as of now


def key_of(http: HttpRequest) -> Key:
    """Whose request it is."""
    key: Key = http.state.key
    return key


def check_permitted(http: HttpRequest, catalogue: Listing, model: str) -> None:
    """Raises: RequestError(404) for a model that the key may not ask for, in the words that one gets which does not exist."""
    key = key_of(http)
    if key.adapters is None:
        return
    served = permitted(key, catalogue)
    if model not in served:
        message = f"no model {model[:80]!r} here; served: {', '.join(served) or 'none'}"
        raise RequestError(message, param="model", code="model_not_found", status=404)


def permitted(key: Key, catalogue: Listing) -> list[str]:
    """The adapters and aliases that a key may ask for."""
    return [name for name in (*catalogue.names(), *catalogue.aliases()) if key.may_ask_for(name)]


def admit(http: HttpRequest, service: Service) -> None:
    """Lets a request in as far as its key's limits go. Raises: LimitReachedError."""
    http.state.meter = meter = service.settings.api_keys.meter(key_of(http))
    http.state.lease = meter.admit()


def reserve(http: HttpRequest, tokens: int) -> None:
    """Takes the tokens that a request can come to at most. Raises: LimitReachedError."""
    http.state.lease.reserve(tokens)


def metered(http: HttpRequest, usage: Usage) -> None:
    """From here on a request costs what `usage` says in the end; one that never comes so far costs no tokens."""
    http.state.usage = usage


def settle(state: MutableMapping[str, Any]) -> None:
    """Gives a request's share back, whatever became of it."""
    lease: Lease | None = state.get("lease")
    if lease is not None:
        usage: Usage | None = state.get("usage")
        lease.release(0 if usage is None else usage()["total_tokens"])
