"""POST /v1/chat/completions"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.engine.decoder.request import NO_TOKEN, Request, Token

from .body import body_of
from .deadline import deadline_s
from .generation import Generation
from .logprobs import chat_logprobs
from .reply import addressed, head, respond
from .schemas import ChatRequest
from .service import TheChat
from .structured_output import compiled, form_of
from .tools import ToolUse, form_with_calls, tool_use
from .usage import key_of

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec
    from ptune.tasks.chat.infer import Delta

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(
    body: Annotated[ChatRequest, Depends(body_of(ChatRequest))], service: TheChat, http: HttpRequest
) -> Response:
    """Continues a conversation with an answer, or with `n` of them."""
    adapter = addressed(http, service, body.model, body.caller or http.state.request_id)
    codec, key, limit_s = service.model.codec_for(adapter), key_of(http), deadline_s(http)
    use = tool_use(body, codec)
    messages = [message.raw() for message in body.messages]
    prompt = await asyncio.to_thread(codec.encode_prompt, messages, tools=use.shown)
    grammar = await compiled(service, form_with_calls(body, codec, use, form_of(body)), adapter)
    room = max(service.model.engine.context - len(prompt), 1)  # where there is none, the engine says so
    requests = [
        Request(
            prompt=tuple(prompt),
            adapter=adapter,
            sampling=body.sampling(choice),
            max_tokens=room if body.limit is None else body.limit,
            stop_ids=codec.eos_ids,
            logprobs=body.top_logprobs if body.logprobs else None,
            grammar=grammar,
            beams=body.beams,
            tenant=key.name,
            weight=key.weight,
            deadline_s=limit_s,
        )
        for choice in range(body.n)
    ]
    generation = Generation(service, requests, body.stop, choices=body.n, shown=use.marks)
    beginning = head("chatcmpl", http, service, body.model, adapter)
    reply = _ChatReply(generation, body, codec, use, beginning)
    return await respond(http, generation, reply, stream=body.stream)


class _ChatReply:
    """Answers as `chat.completion`, or as `chat.completion.chunk`s."""

    def __init__(
        self,
        generation: Generation,
        body: ChatRequest,
        codec: ChatCodec,
        use: ToolUse,
        beginning: dict[str, Any],
    ) -> None:
        self._generation = generation
        self._body = body
        self._codec = codec
        self._beginning = beginning
        self._choices = [use.choice() for _ in range(body.n)]

    async def whole(self) -> dict[str, Any]:
        """The answers with their usage."""
        tokens: list[list[Token]] = [[] for _ in self._choices]
        reasons = ["length"] * len(tokens)
        async for index, delta in self._generation.deltas():
            tokens[index] += [delta.token] if delta.token is not None else []
            _, finish = self._read(index, delta)
            reasons[index] = finish or reasons[index]
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "logprobs": self._logprobs(tokens[index]),
                "finish_reason": reasons[index],
                **self._token_ids(tokens[index]),
            }
            for index, choice in enumerate(self._choices)
        ]
        usage = self._generation.usage()
        whole = {**self._beginning, "object": "chat.completion", "choices": choices, "usage": usage}
        return whole | self._prompt_ids()

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The roles at once, then text and calls, then why each ended, then the usage where it was asked for."""
        for index in range(len(self._choices)):
            chunk = self._chunk(index, {"role": "assistant", "content": ""})
            yield chunk if index else chunk | self._prompt_ids()
        async for index, delta in self._generation.deltas():
            told = self._told(delta)
            pieces, finish = self._read(index, delta)
            if not pieces and ("token_ids" in told or told["logprobs"]):
                pieces = [{"content": ""}]
            for place, piece in enumerate(pieces):
                yield self._chunk(index, piece, told if place == 0 else {})
            if finish is not None:
                yield self._chunk(index, {}, {"finish_reason": finish})
        if self._body.include_usage:
            yield {**self._chunk(0, {}), "choices": [], "usage": self._generation.usage()}

    def _read(self, index: int, delta: Delta) -> tuple[list[dict[str, Any]], str | None]:
        """What a delta says and calls, and why its answer ended where it did."""
        choice = self._choices[index]
        pieces = choice.read(delta.text, last=delta.finish is not None)
        finish = delta.finish
        if choice.done and finish is None:
            self._generation.stop(index)
            finish = "stop"
        return pieces, None if finish is None else choice.finish_reason(finish)

    def _chunk(self, index: int, delta: dict[str, Any], told: dict[str, Any] | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **(told or {})}
        chunk = {**self._beginning, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if self._body.include_usage else chunk

    def _told(self, delta: Delta) -> dict[str, Any]:
        """What is told of a delta's token."""
        tokens = [delta.token] if delta.token is not None and delta.token.id != NO_TOKEN else []
        logprobs = self._logprobs(tokens)
        told: dict[str, Any] = {"logprobs": logprobs if logprobs and logprobs["content"] else None}
        return told | (self._token_ids(tokens) if tokens else {})

    def _token_ids(self, tokens: list[Token]) -> dict[str, Any]:
        if not self._body.return_token_ids:
            return {}
        return {"token_ids": [token.id for token in tokens if token.id != NO_TOKEN]}

    def _prompt_ids(self) -> dict[str, Any]:
        if not self._body.return_token_ids:
            return {}
        return {"prompt_token_ids": list(self._generation.requests[0].prompt)}

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        """The token that ended the answer is no part of it."""
        if not self._body.logprobs:
            return None
        silent = {*self._codec.eos_ids, NO_TOKEN}
        return chat_logprobs(self._codec, [token for token in tokens if token.id not in silent])
