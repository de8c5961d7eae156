"""POST /v1/chat/completions"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.engine.request import NO_TOKEN, Request, Token

from .body import body_of
from .generation import Generation
from .logprobs import chat_logprobs
from .reply import head, respond
from .schemas import ChatRequest
from .service import TheChat

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(
    body: Annotated[ChatRequest, Depends(body_of(ChatRequest))], service: TheChat, http: HttpRequest
) -> Response:
    """Continues a conversation with one answer."""
    adapter = service.catalogue.resolve(body.model)
    codec = service.model.codec_for(adapter)
    messages = [message.raw() for message in body.messages]
    prompt = await asyncio.to_thread(codec.encode_prompt, messages)
    room = max(service.model.engine.context - len(prompt), 1)  # where there is none, the engine says so
    request = Request(
        prompt=tuple(prompt),
        adapter=adapter,
        sampling=body.sampling(),
        max_tokens=room if body.limit is None else body.limit,
        stop_ids=codec.eos_ids,
        logprobs=body.top_logprobs if body.logprobs else None,
    )
    generation = Generation(service, [request], body.stop)
    beginning = head("chatcmpl", http, service, body.model, adapter)
    reply = _ChatReply(generation, body, codec, beginning)
    return await respond(http, service, generation, reply, stream=body.stream)


class _ChatReply:
    """An answer as `chat.completion`, or as `chat.completion.chunk`s."""

    def __init__(
        self, generation: Generation, body: ChatRequest, codec: ChatCodec, beginning: dict[str, Any]
    ) -> None:
        self._generation = generation
        self._body = body
        self._codec = codec
        self._beginning = beginning

    async def whole(self) -> dict[str, Any]:
        """The answer with its usage."""
        [answer] = await self._generation.finished()
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(answer.tokens),
            "finish_reason": answer.finish,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = [token.id for token in answer.tokens if token.id != NO_TOKEN]
        usage = self._generation.usage()
        return {**self._beginning, "object": "chat.completion", "choices": [choice], "usage": usage}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The role at once, then the text, then why it ended, then the usage where it was asked for."""
        yield self._chunk({"role": "assistant", "content": ""})
        async for _, delta in self._generation.deltas():
            logprobs = self._logprobs([delta.token] if delta.token is not None else [])
            if delta.text or (logprobs and logprobs["content"]):
                yield self._chunk({"content": delta.text}, logprobs)
            if delta.finish is not None:
                yield self._chunk({}, finish=delta.finish)
        if self._body.include_usage:
            yield {**self._chunk({}), "choices": [], "usage": self._generation.usage()}

    def _chunk(
        self, delta: dict[str, str], logprobs: dict[str, Any] | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = {**self._beginning, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if self._body.include_usage else chunk

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        """The token that ended the answer is no part of it."""
        if not self._body.logprobs:
            return None
        silent = {*self._codec.eos_ids, NO_TOKEN}
        return chat_logprobs(self._codec, [token for token in tokens if token.id not in silent])
