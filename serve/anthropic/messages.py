"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API. Each request is answered as a chat."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic_core import from_json

from ..adapters.access import resolve_adapter
from ..http.body import body_of
from ..http.context import context_of
from ..http.dependencies import ChatServiceDep
from ..http.error_forms import anthropic_error
from ..openai.answer_blocks import AnswerBlocks, Began, Block, BlockEvent, Ended, Grew
from ..openai.chat import ChatReply, chat_reply, encoded_chat
from ..openai.chat_translation import renaming
from ..openai.response import Framing, named_event, respond
from ..openai.tools import tool_use
from .conversation import NAMES, chat_of
from .schemas import CountTokensRequest, MessagesRequest

router = APIRouter()
EVENTS = Framing(written=named_event, error=anthropic_error)


@router.post("/v1/messages")
async def messages(
    body: Annotated[MessagesRequest, Depends(body_of(MessagesRequest))],
    service: ChatServiceDep,
    http: HttpRequest,
) -> Response:
    """Answers a conversation."""
    adapter = resolve_adapter(http, service, body.model, body.metadata.user_id)
    with renaming(NAMES):
        chat = chat_of(body, service.model.codec_for(adapter))
        answer = await chat_reply(chat, service, http, adapter, to_context_end=True)
        reply = _MessageReply(answer, body, f"msg_{context_of(http).request_id}")
        return await respond(http, answer.call, reply, stream=body.stream, framing=EVENTS)


@router.post("/v1/messages/count_tokens")
async def count_tokens(
    body: Annotated[CountTokensRequest, Depends(body_of(CountTokensRequest))],
    service: ChatServiceDep,
    http: HttpRequest,
) -> Response:
    """How many tokens a conversation has, with its system message and its tools."""
    adapter = resolve_adapter(http, service, body.model)
    codec = service.model.codec_for(adapter)
    with renaming(NAMES):
        chat = chat_of(body, codec)
        return JSONResponse(
            {"input_tokens": len(await encoded_chat(chat, service, codec, tool_use(chat, codec)))}
        )


class _MessageReply:
    """Writes an answer as a message, or as the events that build one."""

    def __init__(self, answer: ChatReply, body: MessagesRequest, message_id: str) -> None:
        self._answer = answer
        self._blocks = AnswerBlocks(answer)
        self._head = {"id": message_id, "type": "message", "role": "assistant", "model": body.model}
        [request] = answer.call.requests
        self._cut = "max_tokens" if request.max_tokens == body.max_tokens else "model_context_window_exceeded"

    async def whole(self) -> dict[str, Any]:
        """The message."""
        async for _ in self._blocks.events():
            pass
        content = [{**_empty(block), **_filled(block)} for block in self._blocks.blocks]
        return {**self._head, "content": content, **self._stop(), "usage": self._usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The events, as tokens arrive."""
        begun: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }
        yield {"type": "message_start", "message": {**self._head, **begun}}
        async for event in self._blocks.events():
            yield _written(event)
        yield {"type": "message_delta", "delta": self._stop(), "usage": self._usage()}
        yield {"type": "message_stop"}

    def _stop(self) -> dict[str, Any]:
        """Why the answer ended. A call that the request asked for by name is a call like any other here."""
        [stop] = self._answer.stops
        reason = "end_turn" if stop is None else "stop_sequence"
        if self._blocks.calls:
            reason = "tool_use"
        if self._blocks.finish == "length":
            reason = self._cut
        return {"stop_reason": reason, "stop_sequence": stop}

    def _usage(self) -> dict[str, Any]:
        usage = self._answer.usage()
        told = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
        if not self._answer.thinks:
            return told
        thinking = usage["completion_tokens_details"]["reasoning_tokens"]
        return {**told, "output_tokens_details": {"thinking_tokens": thinking}}


def _written(event: BlockEvent) -> dict[str, Any]:
    index = event.block.index
    if isinstance(event, Began):
        return {"type": "content_block_start", "index": index, "content_block": _empty(event.block)}
    if isinstance(event, Ended):
        return {"type": "content_block_stop", "index": index}
    return {"type": "content_block_delta", "index": index, "delta": _delta(event)}


def _delta(event: Grew) -> dict[str, Any]:
    kind, field = _DELTAS[event.block.kind]
    return {"type": kind, field: event.text}


_DELTAS = {
    "reasoning": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}


def _empty(block: Block) -> dict[str, Any]:
    """A block as it begins."""
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    if block.kind == "text":
        return {"type": "text", "text": ""}
    return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}


def _filled(block: Block) -> dict[str, Any]:
    """What a complete block has in place of what it began with."""
    if block.kind == "call":
        return {"input": called_with(block.text)}
    return {"thinking" if block.kind == "reasoning" else "text": block.text}


def called_with(arguments: str) -> dict[str, Any]:
    """A call's arguments; empty if the answer was cut before they were complete, or they cannot be sent as JSON.

    Python's parser takes more than JSON has: NaN, half of a surrogate pair, and infinity for 1e400.
    """
    try:
        value = from_json(arguments)
        json.dumps(value, allow_nan=False)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
