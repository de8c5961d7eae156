"""What all endpoints share: the model, who may ask, what is running."""

from __future__ import annotations

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


def authorized(request: Request, service: TheService) -> None:
    """Raises: RequestError(401) for a request without one of the keys."""
    service.settings.api_keys.check(request.headers.get("authorization"))


def accepting(service: TheService) -> None:
    """Raises: RequestError(503) once the server has been told to stop."""
    if service.draining:
        raise RequestError("the server is shutting down", code="shutting_down", status=503)
