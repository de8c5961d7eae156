"""Hands a request to the app of the bundle that its `model` names, and waits for that bundle if it has to be loaded."""

from __future__ import annotations

import asyncio
import math
import re
import time
from contextlib import AsyncExitStack
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from ptune.config.tasks import endpoints_of, of_kind, routers_of, tasks_of
from ptune.engine.job import BEFORE_COMPUTED, deadline_passed
from ptune.errors import RequestError
from ptune.formats.task_names import TRANSLATION
from ptune.kinds import ENCODER, SEQ2SEQ, imported

from ..adapters.access import check_permitted, permitted_models
from ..http.body import media_type, raw_body, require_json, validated
from ..http.context import key_of
from ..http.deadline import HEADER, deadline_s
from ..http.disconnect import until_disconnect
from ..http.errors import shutting_down
from ..ollama.body import require_json_of_browsers
from ..ollama.schemas import LATEST
from ..open_inference.models import router as models_v2
from ..other_routes import paths_of
from .names import Named
from .service import HostService, HostServiceDep

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Scope, Send

    from .loaded import LoadedBundle

_OLLAMA = "/api/"
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 100 * 365 * 86400  # what is more is no time that a clock or a calendar has


class _Asked(BaseModel):
    """What the host reads of a body; its bundle reads all of it."""

    model: Annotated[str, Field(max_length=512)] | None = None
    keep_alive: Any = None


def forwarding(router: APIRouter) -> APIRouter:
    """A router with the same paths, whose requests are answered by the bundle that they name."""
    return _standing_in(router, _forward)


def forwarding_to_bundle(router: APIRouter) -> APIRouter:
    """The same for endpoints that name no model: `?bundle=` says which is meant."""
    return _standing_in(router, _forward_to_bundle)


def _standing_in(router: APIRouter, endpoint: Callable[..., Any]) -> APIRouter:
    found = APIRouter()
    for route in router.routes:
        assert isinstance(route, APIRoute)
        found.add_api_route(route.path, endpoint, methods=sorted(route.methods or ()))
    return found


async def _forward(http: HttpRequest, service: HostServiceDep) -> Response:
    body, asked = await _read(http, service)
    model = asked.model
    if model is None:
        known = permitted_models(key_of(http), service.catalogue)
        model = _only_bundle(service, "model", f"say which model, of {', '.join(known)}")
    check_permitted(key_of(http), service.catalogue, model)
    named = service.catalogue.find(model)
    _check_endpoint(http, service, named)
    return _Forwarded(http, service, named.bundle, body, _idle_s(http, asked.keep_alive))


async def _forward_to_bundle(http: HttpRequest, service: HostServiceDep) -> Response:
    name = http.query_params.get("bundle")
    if name is None:
        name = _only_bundle(service, "bundle", f"say ?bundle= and one of {', '.join(service.places)}")
    return _Forwarded(http, service, service.bundle(name).name, None, None)


async def _read(http: HttpRequest, service: HostService) -> tuple[bytes, _Asked]:
    """The whole body, and what it asks for. Raises: RequestError (400, 408, 413, 415)."""
    in_query = http.path_params.get("model") or http.query_params.get("model")
    if http.method in ("GET", "DELETE"):
        return b"", _Asked.model_construct(model=in_query)
    if media_type(http).startswith("image/"):  # which no page sends here without asking first
        return await raw_body(http, service), _Asked.model_construct(model=in_query)
    ollama = http.url.path.startswith(_OLLAMA)
    (require_json_of_browsers if ollama else require_json)(http)
    body = await raw_body(http, service)
    if "model" in http.path_params:
        return body, _Asked.model_construct(model=in_query)
    asked = validated(_Asked, body)
    if ollama and asked.model is not None:
        asked.model = asked.model.removesuffix(LATEST)
    return body, asked


def _only_bundle(service: HostService, param: str, otherwise: str) -> str:
    """The bundle that is meant where none is named. Raises: RequestError(400) if there are several."""
    if len(service.places) == 1:
        return next(iter(service.places))
    raise RequestError(
        f"{param}: this server has several bundles: {otherwise}", param=param, code="invalid_value"
    )


def _check_endpoint(http: HttpRequest, service: HostService, named: Named) -> None:
    """Raises: RequestError(404) where the bundle's kind of model has no such endpoint: nothing is loaded for that."""
    path, kind = http.scope["route"].path, service.places[named.bundle].kind
    if path in _paths_of(kind.name):
        return
    listing = service.catalogue.of(named.bundle)
    there = " or ".join(endpoints_of(listing.card(listing.resolve(named.own))["task"]))
    message = f"{http.method} {path}: bundle {named.bundle!r} holds {kind.noun}: use {there}"
    raise RequestError(message, param="model", code="wrong_endpoint", status=404)


@cache
def _paths_of(kind: str) -> frozenset[str]:
    """The paths of all endpoints for a kind of model."""
    tasks = (
        tasks_of(TRANSLATION)
        if kind == SEQ2SEQ.name
        else of_kind("encoder" if kind == ENCODER.name else "decoder")
    )
    routers = [imported(place) for place in routers_of(*tasks)] + (
        [models_v2] if kind == ENCODER.name else []
    )
    return frozenset(path for router in routers for path in paths_of(router))


def _idle_s(http: HttpRequest, keep_alive: Any) -> float | None:
    """How long the bundle is to stay, by Ollama's `keep_alive`; where there are keys, only one of scope admin may say so."""
    if keep_alive is None or not http.url.path.startswith(_OLLAMA):
        return None
    seconds = _seconds(keep_alive)
    if seconds is None:
        message = "keep_alive: must be seconds, or a duration such as 10m or 1h30m; below 0: until others need the room"
        raise RequestError(message, param="keep_alive", code="invalid_value")
    return seconds if "admin" in key_of(http).scopes else None


def _seconds(keep_alive: Any) -> float | None:
    """Seconds of a number or of Go's notation of durations; inf below 0 and beyond a century, None for what is neither."""
    if isinstance(keep_alive, bool) or not isinstance(keep_alive, int | float | str):
        return None
    if isinstance(keep_alive, str):
        if (found := _DURATION.fullmatch(keep_alive)) is None:
            return None
        seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(keep_alive))
        keep_alive = -seconds if found[1] == "-" else seconds
    if keep_alive != keep_alive:  # NaN
        return None
    return float(keep_alive) if 0 <= keep_alive <= _LONGEST_S else math.inf


class _Waiting:
    """A request that waits for its bundle, among those that a server ends when it shuts down."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.closed = False

    def close(self) -> None:
        if self._task is not None and not self.closed:
            self.closed = True
            self._task.cancel()


class _Forwarded(Response):
    """The answer of a bundle's own app. body: what was read of the request; None if that is left to the bundle."""

    def __init__(
        self, http: HttpRequest, service: HostService, bundle: str, body: bytes | None, idle_s: float | None
    ) -> None:
        super().__init__()
        self._http, self._service, self._bundle, self._body, self._idle_s = (
            http,
            service,
            bundle,
            body,
            idle_s,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s, limit_s = time.monotonic(), deadline_s(self._http)
        async with AsyncExitStack() as stack:
            loaded = await self._enter(stack, limit_s)
            left_s = None if limit_s is None else limit_s - (time.monotonic() - started_s)
            await loaded.app(_inner(scope, left_s), _replayed(self._body, receive), send)

    async def _enter(self, stack: AsyncExitStack, limit_s: float | None) -> LoadedBundle:
        """The bundle, when it is loaded. Raises: RequestError; ClientDisconnect."""
        entering = stack.enter_async_context(self._service.bundles.using(self._bundle, self._idle_s))
        if self._service.bundles.loaded(self._bundle) is not None or self._body is None:
            return await entering
        waiting = _Waiting()
        self._service.running.add(waiting)
        try:
            async with asyncio.timeout(limit_s):
                return await until_disconnect(self._http.receive, entering)
        except TimeoutError:
            raise deadline_passed(limit_s, BEFORE_COMPUTED) from None
        except asyncio.CancelledError:
            if waiting.closed and (task := asyncio.current_task()) is not None:
                task.uncancel()
                raise shutting_down() from None
            raise
        finally:
            self._service.running.discard(waiting)


def _inner(scope: Scope, left_s: float | None) -> Scope:
    """The scope for a bundle's app. The context of the request is in `state`, which both apps share."""
    headers = scope["headers"]
    if left_s is not None:
        headers = [(name, value) for name, value in headers if name != HEADER.encode()]
        headers.append((HEADER.encode(), f"{max(left_s, 0.001):.6f}".encode()))
    return {**scope, "headers": headers}


def _replayed(body: bytes | None, receive: Receive) -> Callable[[], Any]:
    """Receives a body again that was read, and then what the client does."""
    unread = [] if body is None else [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replay
