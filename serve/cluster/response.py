"""A response on its way from a replica to the client, which may still come from another replica until it has begun."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope, Send

from ptune.errors import RequestError

from ..anthropic.messages import EVENTS
from ..http.error_forms import of_path
from ..ollama.chat import LINES
from ..openai.response import OPENAI, Framing, named_event
from .tunnel import End, Part, Start


def _error_event(error: RequestError) -> dict[str, Any]:
    """OpenAI's event `error` of /v1/responses."""
    return {"type": "error", "code": error.code, "message": str(error), "param": error.param}


STREAMS = {"/v1/messages": EVENTS, "/v1/responses": Framing(named_event, _error_event), "/api": LINES}
"""How an error looks in a stream, by path; elsewhere as OpenAI's."""


class Response:
    """Sends the beginning of a response with its first byte: until then another replica may answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._path: str = scope["path"]
        self._has_id = any(name == b"x-request-id" for name, _ in scope["headers"])
        self._send = send
        self._start: Start | None = None
        self.begun = self.ended = False

    async def take(self, part: Part) -> None:
        """Sends a part of the answer."""
        if isinstance(part, Start):
            self._start = part
            return
        await self._begin()
        self.ended = isinstance(part, End)
        body = part.piece if isinstance(part, End) else part
        await self._send({"type": "http.response.body", "body": body, "more_body": not self.ended})

    async def fail(self, error: RequestError) -> None:
        """Ends an answer that has begun: a stream with an event, anything else by breaking off."""
        assert self._start is not None
        if not any(name == b"content-type" and _streamed(value) for name, value in self._start.headers):
            raise error
        framing = of_path(STREAMS, self._path, OPENAI)
        await self.take(End(framing.written(framing.error(error)).encode()))

    async def _begin(self) -> None:
        if self.begun:
            return
        assert self._start is not None
        self.begun = True
        # Ray's proxy answers with the request's id, too.
        headers = [
            (name, value)
            for name, value in self._start.headers
            if not (self._has_id and name == b"x-request-id")
        ]
        await self._send({"type": "http.response.start", "status": self._start.status, "headers": headers})


def _streamed(content_type: bytes) -> bool:
    return content_type.startswith((b"text/event-stream", b"application/x-ndjson"))
