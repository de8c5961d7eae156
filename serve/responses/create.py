"""POST /v1/responses: OpenAI's Responses API. Each request is answered as a chat."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.errors import RequestError

from ..adapters.access import resolve_adapter
from ..http.body import body_of
from ..http.context import context_of, key_of
from ..http.dependencies import ChatServiceDep
from ..openai.chat import chat_reply
from ..openai.chat_translation import renaming
from ..openai.response import Framing, named_event, respond
from .conversation import NAMES, chat_of
from .items import item_of
from .reply import Kept, ResponseReply
from .schemas import ResponsesRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from .store import ResponseStore

router = APIRouter()


@router.post("/v1/responses")
async def responses(
    body: Annotated[ResponsesRequest, Depends(body_of(ResponsesRequest))],
    service: ChatServiceDep,
    http: HttpRequest,
) -> Response:
    """Answers a conversation, and keeps it if `store` is true."""
    adapter = resolve_adapter(http, service, body.model, body.caller)
    key, store = key_of(http).name, service.responses
    before = _before(store, key, body.previous_response_id)
    with renaming(NAMES):
        answer = await chat_reply(
            chat_of(body, before, service.model.codec_for(adapter)), service, http, adapter
        )
        kept = Kept(store, key, [*before, *body.input]) if body.store else None
        # Not the request's id: a client could choose that, and so learn or replace another's response.
        answer_id = uuid.uuid4().hex
        if (awaited := context_of(http).awaited) is not None:
            service.waiting.call_also(awaited, answer_id)
        reply = ResponseReply(answer, body, f"resp_{answer_id}", int(time.time()), kept)
        store.begin(key, reply.response_id, reply)
        framing = Framing(written=named_event, error=reply.failed)
        return await respond(http, answer.call, reply, stream=body.stream, framing=framing)


def _before(store: ResponseStore, key: str, response_id: str | None) -> Sequence[BaseModel]:
    """The items that a response goes on from. Raises: RequestError(400)."""
    if response_id is None:
        return ()
    found = store.find(key, response_id)
    if found is None:
        message = f"previous_response_id: no response {response_id[:80]!r} is kept here; send its items, and store: true"
        raise RequestError(message, param="previous_response_id", code="previous_response_not_found")
    return [item_of(item) for item in found.items]
