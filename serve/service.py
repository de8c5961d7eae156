"""What all endpoints share: the model, who may ask, what is running."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from ptune.errors import RequestError

from .auth import ApiKeys
from .catalogue import Catalogue
from .metrics import Metrics

if TYPE_CHECKING:
    from ptune.tasks.chat.infer import ChatModel

    from .generation import Generation


@dataclass(frozen=True)
class Settings:
    """What an operator may choose."""

    api_keys: ApiKeys = field(default_factory=ApiKeys)
    max_body_bytes: int = 4 * 2**20
    hosts: frozenset[str] = frozenset()  # names in the Host header that are answered; none = all


@dataclass
class Service:
    """One model being served."""

    model: ChatModel
    settings: Settings
    catalogue: Catalogue
    metrics: Metrics
    running: set[Generation] = field(default_factory=set)  # until their last byte is sent
    draining: bool = False


def service_of(request: Request) -> Service:
    """The service of the app that a request came to."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(service_of)]


def rightly_addressed(request: Request, service: TheService) -> None:
    """Raises: RequestError(400) for a Host that is not this server's.

    A web page can have its own name resolve to 127.0.0.1 (DNS rebinding), and then the browser lets it read answers.
    """
    host = re.sub(r":\d*$", "", request.headers.get("host", "")).lower()
    if service.settings.hosts and host not in service.settings.hosts:
        known = ", ".join(sorted(service.settings.hosts))
        message = f"this server is not called {host[:80]!r}, but {known}; with API keys any name will do"
        raise RequestError(message, code="unknown_host")


def authorized(request: Request, service: TheService) -> None:
    """Raises: RequestError(401) for a request without one of the keys."""
    service.settings.api_keys.check(request.headers.get("authorization"))


def accepting(service: TheService) -> None:
    """Raises: RequestError(503) once the server has been told to stop."""
    if service.draining:
        raise RequestError("the server is shutting down", code="shutting_down", status=503)
