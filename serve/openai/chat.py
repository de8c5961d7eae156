"""POST /v1/chat/completions"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.engine.decoder.request import NO_TOKEN, Token
from ptune.tasks.chat.thinking import thinking_budget

from ..adapters.access import resolve_adapter
from ..http.body import body_of
from ..http.dependencies import ChatServiceDep
from .call import DecoderCall
from .engine_requests import engine_requests
from .images import plain_tokens, seen_prompt
from .logprobs import chat_logprobs, prompt_logprobs
from .response import common_fields, respond
from .schemas import ChatRequest
from .structured_output import after_reasoning, compile_grammar, requested_output
from .tools import ToolUse, output_with_calls, tool_use

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec
    from ptune.codecs.reading import Reading
    from ptune.engine.decoder.answers.thinking import ThinkingBudget
    from ptune.tasks.chat.seen import Prompt
    from ptune.tasks.chat.text_stream import Delta

    from ..service import ChatService

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(
    body: Annotated[ChatRequest, Depends(body_of(ChatRequest))], service: ChatServiceDep, http: HttpRequest
) -> Response:
    """Answers a conversation, with `n` choices."""
    adapter = resolve_adapter(http, service, body.model, body.caller)
    reply = await chat_reply(body, service, http, adapter)
    return await respond(http, reply.call, reply, stream=body.stream)


async def chat_reply(
    body: ChatRequest,
    service: ChatService,
    http: HttpRequest,
    adapter: str,
    *,
    to_context_end: bool = False,
) -> ChatReply:
    """The reply to a conversation, ready to begin: every API that holds conversations goes through here.

    to_context_end: as in `engine_requests`.
    Raises: RequestError, TemplateError for a conversation that cannot be answered.
    """
    codec = service.model.codec_for(adapter)
    use = tool_use(body, codec)
    prompt = await encoded_chat(body, service, codec, use)
    reading = codec.reading(prompt, body.continued_text)
    output = after_reasoning(output_with_calls(body, codec, use, requested_output(body, codec)), reading)
    grammar = await compile_grammar(service, output, adapter)
    requests = engine_requests(
        body,
        http,
        service,
        adapter,
        [prompt],
        max_tokens=body.limit,
        to_context_end=to_context_end,
        grammar=grammar,
        logprobs=body.top_logprobs if body.logprobs else None,
        thinking=_budget(body, service, codec, reading),
    )
    after = prompt[-1] if body.continue_final_message else None
    call = DecoderCall(
        service, requests, body.stop, choices=body.n, visible=use.marks, after=after, reading=reading
    )
    common = common_fields("chatcmpl", http, service, body.model, adapter)
    return ChatReply(call, body, codec, use, common)


async def encoded_chat(body: ChatRequest, service: ChatService, codec: ChatCodec, use: ToolUse) -> Prompt:
    """The tokens of a conversation, its images and its tools, encoded on another thread. Raises: TemplateError, RequestError."""
    messages = [message.raw() for message in body.messages]
    arguments = {"tools": use.offered, **body.rendering}
    return await asyncio.to_thread(seen_prompt, codec, service, messages, **arguments)


def _budget(
    body: ChatRequest, service: ChatService, codec: ChatCodec, reading: Reading | None
) -> ThinkingBudget | None:
    """How much may be thought. A default gives way to beam search, which has no budget."""
    asked = body.thinking_token_budget
    if asked is None and body.beams is not None:
        return None
    return thinking_budget(codec, reading, asked, service.settings.thinking_token_budget)


class ChatReply:
    """Writes answers as a `chat.completion`, or as `chat.completion.chunk`s.

    call: the work on the engine. thinks: whether the model's answers may begin with reasoning. stops: the stop text that
    ended each answer, if one did.
    """

    def __init__(
        self,
        call: DecoderCall,
        body: ChatRequest,
        codec: ChatCodec,
        use: ToolUse,
        common: dict[str, Any],
    ) -> None:
        self.call = call
        self.stops: list[str | None] = [None] * body.n
        self._body = body
        self._codec = codec
        self._common = common
        self._choices = [use.choice() for _ in range(body.n)]
        self.thinks = codec.reasoning_format is not None
        self._thoughts = [""] * body.n

    def calling(self, index: int) -> bool:
        """Whether an answer is within a call that is not complete."""
        return self._choices[index].calling

    async def whole(self) -> dict[str, Any]:
        """The answers with their usage."""
        tokens: list[list[Token]] = [[] for _ in self._choices]
        prompt: list[Token] = []  # with its log-probabilities, if they were requested
        reasons = ["length"] * len(tokens)
        async for index, delta in self.call.deltas():
            if delta.token is not None and delta.token.prompt:
                prompt.append(delta.token)
                continue
            tokens[index] += [delta.token] if delta.token is not None else []
            _, finish = self._read(index, delta)
            reasons[index] = finish or reasons[index]
        choices = [
            {
                "index": index,
                "message": self._message(index),
                "logprobs": self._logprobs(tokens[index]),
                "finish_reason": reasons[index],
                **self._token_ids(tokens[index]),
            }
            for index in range(len(self._choices))
        ]
        whole = {**self._common, "object": "chat.completion", "choices": choices, "usage": self.usage()}
        if (most := self._body.prompt_logprobs) is not None:
            whole["prompt_logprobs"] = prompt_logprobs(self._codec, prompt, most)
        return whole | self._prompt_ids()

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """First the roles, then reasoning, text and tool calls, then each finish_reason, then the usage if requested."""
        for index in range(len(self._choices)):
            chunk = self._chunk(index, {"role": "assistant", "content": ""})
            yield chunk if index else chunk | self._prompt_ids()
        async for index, delta in self.call.deltas():
            details = self._token_details(delta)
            pieces, finish = self._read(index, delta)
            if not pieces and ("token_ids" in details or details["logprobs"]):
                pieces = [{"content": ""}]
            for position, piece in enumerate(pieces):
                yield self._chunk(index, piece, details if position == 0 else {})
            if finish is not None:
                yield self._chunk(index, {}, {"finish_reason": finish})
        if self._body.include_usage:
            yield {**self._chunk(0, {}), "choices": [], "usage": self.usage()}

    def _read(self, index: int, delta: Delta) -> tuple[list[dict[str, Any]], str | None]:
        """The reasoning, text and tool calls of a delta, and the finish_reason if it ends the answer."""
        choice = self._choices[index]
        thought = delta.reasoning if self._body.include_reasoning else ""
        self._thoughts[index] += thought
        pieces: list[dict[str, Any]] = [{"reasoning_content": thought}] if thought else []
        pieces += choice.read(delta.text, last=delta.finish is not None)
        finish = delta.finish
        self.stops[index] = delta.stop
        if choice.done and finish is None:
            self.call.stop(index)
            finish = "stop"
        return pieces, None if finish is None else choice.finish_reason(finish)

    def _message(self, index: int) -> dict[str, Any]:
        """A whole answer; of a model that thinks, with what was thought or null."""
        message = self._choices[index].message()
        if self.thinks and self._body.include_reasoning:
            message["reasoning_content"] = self._thoughts[index] or None
        return message

    def usage(self) -> dict[str, Any]:
        """The usage; of a model that thinks, with the tokens of the reasoning, which `completion_tokens` includes."""
        usage: dict[str, Any] = {**self.call.usage()}
        if self.thinks:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.call.reasoning_tokens}
        return usage

    def _chunk(
        self, index: int, delta: dict[str, Any], details: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **(details or {})}
        chunk = {**self._common, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if self._body.include_usage else chunk

    def _token_details(self, delta: Delta) -> dict[str, Any]:
        """The log-probabilities and the id of a delta's token, as far as they were requested."""
        tokens = [delta.token] if delta.token is not None and delta.token.id != NO_TOKEN else []
        logprobs = self._logprobs(tokens)
        details: dict[str, Any] = {"logprobs": logprobs if logprobs and logprobs["content"] else None}
        return details | (self._token_ids(tokens) if tokens else {})

    def _token_ids(self, tokens: list[Token]) -> dict[str, Any]:
        if not self._body.return_token_ids:
            return {}
        return {"token_ids": [token.id for token in tokens if token.id != NO_TOKEN]}

    def _prompt_ids(self) -> dict[str, Any]:
        if not self._body.return_token_ids:
            return {}
        return {"prompt_token_ids": plain_tokens(self._codec, self.call.requests[0].prompt)}

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        """Log-probabilities of the answer's tokens, without the token that ends it."""
        if not self._body.logprobs:
            return None
        shown = [token for token in tokens if token.id != NO_TOKEN and token.finish != "stop"]
        return chat_logprobs(self._codec, shown)
