"""FastAPI dependencies: the service that an endpoint belongs to, and the checks before the endpoint runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from ptune.errors import RequestError

from ..access.auth import check_scope
from ..access.keys import Scope
from ..service import BundleService, ChatService, EncoderService, GenerationService, Service
from .context import BATCH_KEY, context_of
from .errors import shutting_down
from .listen import host_in


def service_of(http: Request) -> Service:
    """The service of the app that received a request."""
    service: Service = http.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]
BundleServiceDep = Annotated[BundleService, Depends(service_of)]
ChatServiceDep = Annotated[ChatService, Depends(service_of)]
GenerationServiceDep = Annotated[GenerationService, Depends(service_of)]
EncoderServiceDep = Annotated[EncoderService, Depends(service_of)]


def check_host(http: HTTPConnection, service: ServiceDep) -> None:
    """Raises: RequestError(400) if the Host header is not one of this server's names.

    Otherwise a web page could point its own name at 127.0.0.1 (DNS rebinding), and the browser would let it read answers.
    """
    host = host_in(http.headers.get("host", ""))
    if service.settings.hosts and host not in service.settings.hosts:
        names = ", ".join(sorted(service.settings.hosts))
        message = f"this server is not called {host[:80]!r}, but {names}; with API keys any name will do"
        raise RequestError(message, code="unknown_host")


async def authorize_inference(http: Request, service: ServiceDep) -> None:
    """Checks for a key that may query models. Raises: RequestError (401, 403)."""
    _authorize(http, service, "infer")


async def authorize_admin(http: Request, service: ServiceDep) -> None:
    """Checks for a key that may change what is served. Raises: RequestError (401, 403)."""
    if http.method != "GET":
        context_of(http).changes = dict(http.path_params)
    _authorize(http, service, "admin")


async def authorize_metrics(http: Request, service: ServiceDep) -> None:
    """Checks for a key that may read the metrics of all keys. Raises: RequestError (401, 403)."""
    _authorize(http, service, "metrics", "admin")


def _authorize(http: Request, service: Service, *scopes: Scope) -> None:
    keys = service.settings.api_keys
    named = http.scope.get(BATCH_KEY)
    key = keys.check(authorization(http)) if named is None else keys.check_named(named)
    context_of(http).key = service.settings.key_here(key)  # so that the logs know whose request was refused
    check_scope(key, *scopes)


def authorization(http: HTTPConnection) -> str | None:
    """The header `Authorization`, or what it would be for the key in `x-api-key`, where Anthropic's clients send it."""
    key = http.headers.get("x-api-key")
    return http.headers.get("authorization", None if key is None else f"Bearer {key}")


def refuse_while_draining(service: ServiceDep) -> None:
    """Raises: RequestError(503) once the server is shutting down."""
    if service.draining:
        raise shutting_down()
