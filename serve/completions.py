"""POST /v1/completions"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.engine.request import NO_TOKEN, Request, Token

from .body import body_of
from .generation import Generation
from .logprobs import completion_logprobs
from .reply import head, respond
from .schemas import CompletionRequest
from .service import TheChat

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

router = APIRouter()


@router.post("/v1/completions")
async def completions(
    body: Annotated[CompletionRequest, Depends(body_of(CompletionRequest))],
    service: TheChat,
    http: HttpRequest,
) -> Response:
    """Continues each prompt: one choice a prompt."""
    adapter = service.catalogue.resolve(body.model)
    codec = service.model.codec_for(adapter)
    requests = await asyncio.to_thread(
        lambda: [_request(codec, body, adapter, prompt) for prompt in body.prompt]
    )
    generation = Generation(service, requests, body.stop)
    beginning = head("cmpl", http, service, body.model, adapter)
    reply = _CompletionReply(generation, body, codec, beginning)
    return await respond(http, service, generation, reply, stream=body.stream)


def _request(codec: ChatCodec, body: CompletionRequest, adapter: str, prompt: str | list[int]) -> Request:
    return Request(
        prompt=tuple(codec.encode_text(prompt) if isinstance(prompt, str) else prompt),
        adapter=adapter,
        sampling=body.sampling(),
        max_tokens=body.max_tokens,
        stop_ids=codec.eos_ids,
        logprobs=body.logprobs,
        prompt_logprobs=body.echo and body.logprobs is not None,
    )


class _CompletionReply:
    """The answers as one `text_completion`, or as a stream of them."""

    def __init__(
        self, generation: Generation, body: CompletionRequest, codec: ChatCodec, beginning: dict[str, Any]
    ) -> None:
        self._generation = generation
        self._body = body
        self._codec = codec
        self._beginning = {**beginning, "object": "text_completion"}

    async def whole(self) -> dict[str, Any]:
        """All choices with their usage."""
        choices = [
            self._choice(
                index, self._echo(index) + answer.text, answer.prompt + answer.tokens, finish=answer.finish
            )
            for index, answer in enumerate(await self._generation.finished())
        ]
        return {**self._beginning, "choices": choices, "usage": self._generation.usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The echo of each prompt, then pieces of the choices as they come, then the usage if asked for."""
        offsets = [0] * len(self._generation.requests)
        for index in range(len(offsets) if self._body.echo else 0):
            yield self._chunk(self._choice(index, self._echo(index), []))
        async for index, delta in self._generation.deltas():
            tokens = [delta.token] if delta.token is not None else []
            choice = self._choice(index, delta.text, tokens, offset=offsets[index], finish=delta.finish)
            offsets[index] += sum(len(self._codec.token_text(token.id)) for token in tokens)
            if delta.text or choice["logprobs"] or delta.finish is not None:
                yield self._chunk(choice)
        if self._body.include_usage:
            yield {**self._beginning, "choices": [], "usage": self._generation.usage()}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._beginning, "choices": [choice]}
        return {**chunk, "usage": None} if self._body.include_usage else chunk

    def _choice(
        self, index: int, text: str, tokens: list[Token], *, offset: int = 0, finish: str | None = None
    ) -> dict[str, Any]:
        scored = [token for token in tokens if token.id != NO_TOKEN]
        wanted = self._body.logprobs is not None and bool(scored)
        logprobs = completion_logprobs(self._codec, scored, offset) if wanted else None
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return choice | ({"token_ids": [token.id for token in scored]} if self._body.return_token_ids else {})

    def _echo(self, index: int) -> str:
        if not self._body.echo:
            return ""
        prompt = self._body.prompt[index]
        return prompt if isinstance(prompt, str) else self._codec.decode(prompt)
