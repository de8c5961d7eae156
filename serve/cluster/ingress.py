"""The ingress: reads a request, has a replica answer it, and has another one answer where that replica dies."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from ptune.errors import RequestError

from ..http.disconnect import until_disconnect
from ..http.errors import error_response, internal_error
from ..http.request_log import request_id_of
from .affinity import PINNED, Route, route_of
from .response import Response
from .tunnel import REPLICA_HEADER, End, Part, Refusal, Start, portable

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

ATTEMPTS = 3
BODY_LIMIT_S = 60
UNASKED_BYTES = 64 * 1024
"""Of a body, so much is read before its key is known to be one."""
_ALL_LIMIT_S = 10  # how long all replicas may take to say something
_log = logging.getLogger("ptune.serve")


class Ingress:
    """Holds nothing but the body of each request, so there may be any number of it."""

    def __init__(self, replicas: DeploymentHandle, ledger: DeploymentHandle, max_body_bytes: int) -> None:
        self._replicas, self._ledger = replicas, ledger
        self._answers = replicas.options(method_name="answer", stream=True)
        self._refusals = replicas.options(method_name="refusal")
        self._max_body_bytes = max_body_bytes

    def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray's name
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await _live(receive, send)
            elif scope["type"] == "http":
                await self._request(scope, receive, send)

        return app  # uvicorn takes a bound method for an app of ASGI 2

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its body to the last byte of its answer."""
        try:
            body = await self._body(scope, receive)
        except RequestError as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        if body is not None:
            with suppress(ClientDisconnect):
                await until_disconnect(receive, self._answer(scope, receive, send, body))

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the client has gone. Only of a known key it may be long.

        Raises: RequestError (401, 408, 413, 503).
        """
        body, said, known, ended = bytearray(), _length(scope), False, False
        try:
            async with asyncio.timeout(BODY_LIMIT_S):
                while True:
                    size = max(said, len(body))
                    if size > UNASKED_BYTES and not known:
                        await self._require_known(scope)
                        known = True
                    if size > self._max_body_bytes:
                        raise RequestError(
                            f"the body has over {self._max_body_bytes} bytes; adapters are added by their path",
                            code="body_too_large",
                            status=413,
                        )
                    if ended:
                        return bytes(body)
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    ended = not message.get("more_body", False)
        except TimeoutError:
            raise RequestError("the body did not arrive in time", code="timeout", status=408) from None

    async def _require_known(self, scope: Scope) -> None:
        """Has a replica judge a request by its headers. Raises: RequestError, also where that replica is lost (503)."""
        try:
            refusal: Refusal | None = await self._refusals.remote(portable(scope))
        except (RayError, RayServeException) as lost:
            _log.warning("a replica was lost while it checked a key: %s", type(lost).__name__)
            raise RequestError(
                "the replica that was asked is lost", code="replica_lost", status=503
            ) from None
        if refusal is not None:
            message, code, status = refusal
            raise RequestError(message, code=code, status=status)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Sends what a replica answers. A replica that dies before its first byte was sent is replaced by another."""
        out = Response(scope, send)
        for _ in range(1 if _changes(scope) else ATTEMPTS):
            try:
                async with aclosing(self._parts(scope, body)) as parts:
                    async for part in parts:
                        await out.take(part)
                return
            except RequestError as known:
                error = known
                break
            except RayTaskError as fault:  # of ours: another replica would have it, too
                _log.error("a replica failed to answer: %s", fault)
                error = internal_error(request_id_of(scope))
                break
            except (RayError, RayServeException) as lost:
                if out.ended:
                    return
                _log.warning("a replica was lost while it answered: %s", type(lost).__name__)
                error = RequestError("the replica that answered was lost", code="replica_lost", status=503)
                if out.begun:
                    break
        if out.begun:
            await out.fail(error)
        else:
            await error_response(error, scope["path"])(scope, receive, send)

    def _parts(self, scope: Scope, body: bytes) -> AsyncGenerator[Part, None]:
        """The answer to a request: one replica's, but for what concerns all of them."""
        if scope["path"] in ("/health", "/ready"):
            return self._health(scope["path"])
        if scope["path"] == "/metrics":
            return self._metrics(scope, body)
        if _changes(scope):
            return self._changed(scope, body)
        return self._of_replica(route_of(body), scope, body)

    async def _of_replica(self, route: Route, scope: Scope, body: bytes) -> AsyncGenerator[Part, None]:
        """One replica's answer; it is cancelled where nobody waits for it any longer."""
        response = self._answers.remote(route, portable(scope), body)
        ended = False
        try:
            async for part in response:
                yield part
            ended = True
        finally:
            if not ended:
                response.cancel()

    async def _changed(self, scope: Scope, body: bytes) -> AsyncGenerator[Part, None]:
        """The answer to a change of adapters, which is not sent before all replicas have followed it."""
        parts = [part async for part in self._of_replica(PINNED, scope, body)]
        await self._all("follow")
        for part in parts:
            yield part

    async def _metrics(self, scope: Scope, body: bytes) -> AsyncGenerator[Part, None]:
        """The sum of all replicas' metrics, where one of them lets the caller read its own."""
        parts = [part async for part in self._of_replica(Route(), scope, body)]
        start = parts[0]
        if isinstance(start, Start) and start.status == 200:
            headers = [
                header for header in start.headers if header[0] not in (b"content-length", REPLICA_HEADER)
            ]
            found = [one for one in await self._all("exposed") if not isinstance(one, BaseException)]
            parts = [Start(200, headers), End(await self._ledger.add_up.remote(dict(found)))]
        for part in parts:
            yield part

    async def _health(self, path: str) -> AsyncGenerator[Part, None]:
        """Whether some replica answers requests."""
        found = await self._all("problem")
        healthy = [one for one in found if one is None]
        if not healthy:
            raise RequestError(f"unhealthy: {found[0]}", code="unhealthy", status=503)
        status = "ok" if path == "/health" else "ready"
        yield Start(200, [(b"content-type", b"application/json")])
        yield End(json.dumps({"status": status, "replicas": len(healthy)}).encode())

    async def _all(self, method: str) -> list[Any]:
        """What all replicas return; an exception in place of what one could not."""
        try:
            asked = self._replicas.broadcast(method)
            return await asked.results_async(timeout_s=_ALL_LIMIT_S, return_exceptions=True)
        except TimeoutError as error:
            return [error]


def _changes(scope: Scope) -> bool:
    """Whether a request changes adapters or aliases."""
    tops = ("/v1/adapters", "/v1/aliases", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
    return scope["method"] not in ("GET", "HEAD") and scope["path"].startswith(tops)


def _length(scope: Scope) -> int:
    """The length that a body is said to have; 0 where nothing is said."""
    said = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(value) for value in said if value.isdigit() and len(value) <= 20), default=0)


async def _live(receive: Receive, send: Send) -> None:
    """ASGI's lifespan, in which nothing has to be done."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
