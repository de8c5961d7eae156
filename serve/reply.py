"""How an answer travels: as server-sent events while it grows, or whole; given up when the client goes away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ptune.errors import RequestError

from .aliases import MAIN
from .errors import error_object, internal_error
from .request_log import log_failure
from .service import Running, WritingService
from .usage import check_permitted, metered, reserve

Result = TypeVar("Result")


class Work(Running, Protocol):
    """What an engine does for one call."""

    def most_tokens(self) -> int:
        """What it can come to, prompts included."""

    def start(self) -> None:
        """Submits all of it, or nothing. Raises: RequestError, with status 429 where the queue is full."""

    def usage(self) -> dict[str, int]:
        """OpenAI's count of tokens, as of now."""


class Reply(Protocol):
    """Work in the words of one endpoint."""

    async def whole(self) -> dict[str, Any]:
        """One object, when all is generated."""

    def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Objects as tokens come."""


def head(kind: str, http: Request, service: WritingService, model: str, adapter: str) -> dict[str, Any]:
    """What every object of one reply begins with; `system_fingerprint` says exactly which weights answered."""
    return {
        "id": f"{kind}-{http.state.request_id}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": service.catalogue.answered_by(adapter),
    }


def addressed(http: Request, service: WritingService, model: str, key: str = MAIN) -> str:
    """The adapter that answers a request; whatever becomes of it, its response names it.

    key: of the caller, by which an alias that has a canary chooses.
    Raises: RequestError: 404; 403 where it is not measured and has to be.
    """
    check_permitted(http, service.catalogue, model)
    adapter = service.catalogue.answering(model, key)
    http.state.answered_by = service.catalogue.answered_by(adapter)
    return adapter


async def respond(http: Request, work: Work, reply: Reply, *, stream: bool) -> Response:
    """Starts the work and sends what comes of it. Raises: RequestError before the first byte, never after."""
    reserve(http, work.most_tokens())
    work.start()
    metered(http, work.usage)
    if stream:
        return _EventStream(reply, work, http.state.request_id)
    try:
        return JSONResponse(await unless_gone(http, reply.whole()))
    finally:
        work.close()


class _EventStream(StreamingResponse):
    """Chunks as `data: {...}` events, then `data: [DONE]` where all went well; an error is the last event."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply, work: Work, request_id: str) -> None:
        super().__init__(self._events(reply), headers={"cache-control": "no-cache"})
        self._work = work
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Starlette cancels this when the client disconnects."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.close()

    async def _events(self, reply: Reply) -> AsyncIterator[str]:
        try:
            async for chunk in reply.chunks():
                yield _event(chunk)
        except RequestError as error:
            yield _event(error_object(error))
        except Exception as error:
            log_failure(self._request_id, error)
            yield _event(error_object(internal_error(self._request_id)))
        else:
            yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    # ASCII only: some clients split lines at U+2028 and its like, which JSON leaves bare inside strings.
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


async def unless_gone(http: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` gives, given up when the client goes away. Raises: ClientDisconnect."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
