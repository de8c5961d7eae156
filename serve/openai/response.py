"""Sends a generation: as a stream while it grows, or whole; cancels it if the client disconnects."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ptune.errors import RequestError

from ..engine_call import EngineCall, GenerationCall
from ..http.context import context_of, lease_of
from ..http.disconnect import until_disconnect
from ..http.error_forms import openai_error
from ..http.errors import internal_error
from ..http.request_log import log_failure
from ..service import GenerationService


class Reply(Protocol):
    """Writes what a call generates in the format of one endpoint."""

    async def whole(self) -> dict[str, Any]:
        """One object, once everything is generated."""

    def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Objects, as tokens arrive."""


def common_fields(
    kind: str, http: Request, service: GenerationService, model: str, adapter: str
) -> dict[str, Any]:
    """The fields that every object of one response has; `system_fingerprint` names exactly the weights that answered."""
    return {
        "id": f"{kind}-{context_of(http).request_id}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": service.catalogue.answered_by(adapter),
    }


def event(value: dict[str, Any]) -> str:
    """A server-sent event without a name."""
    # ASCII only: some clients split lines at U+2028 and similar characters, which JSON does not escape.
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


def named_event(value: dict[str, Any]) -> str:
    """A server-sent event that is called by its `type`."""
    return f"event: {value['type']}\n{event(value)}"


@dataclass(frozen=True)
class Framing:
    """How one API writes the objects of a stream, its errors, and the end of a stream that went well."""

    written: Callable[[dict[str, Any]], str] = event
    error: Callable[[RequestError], dict[str, Any]] = openai_error
    end: str = ""
    media_type: str = "text/event-stream"


OPENAI = Framing(end="data: [DONE]\n\n")


async def respond(
    http: Request, call: GenerationCall, reply: Reply, *, stream: bool, framing: Framing = OPENAI
) -> Response:
    """Reserves tokens, starts the call and sends its reply. Raises: RequestError before the first byte, never after."""
    lease = lease_of(http)
    await lease.reserve(call.max_tokens())
    call.start()
    context_of(http).call = call
    lease.bill(call.usage)
    if stream:
        return _ChunkStream(reply, call, context_of(http).request_id, framing)
    try:
        return JSONResponse(await until_disconnect(http.receive, reply.whole()))
    finally:
        call.close()


class _ChunkStream(StreamingResponse):
    """Sends chunks as they come; an error is the last of them."""

    def __init__(self, reply: Reply, call: EngineCall, request_id: str, framing: Framing) -> None:
        headers = {"cache-control": "no-cache"}
        super().__init__(self._written(reply), headers=headers, media_type=framing.media_type)
        self._call = call
        self._request_id = request_id
        self._framing = framing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Starlette cancels this when the client disconnects."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._call.close()

    async def _written(self, reply: Reply) -> AsyncIterator[str]:
        framing = self._framing
        try:
            async for chunk in reply.chunks():
                yield framing.written(chunk)
        except RequestError as error:
            yield framing.written(framing.error(error))
        except Exception as error:
            log_failure(self._request_id, error)
            yield framing.written(framing.error(internal_error(self._request_id)))
        else:
            yield framing.end
