"""POST /v1/completions"""

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
from .logprobs import completion_logprobs
from .reply import addressed, head, respond
from .schemas import CompletionRequest
from .service import TheChat
from .structured_output import compiled, form_of
from .usage import key_of

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

router = APIRouter()


@router.post("/v1/completions")
async def completions(
    body: Annotated[CompletionRequest, Depends(body_of(CompletionRequest))],
    service: TheChat,
    http: HttpRequest,
) -> Response:
    """Continues each prompt, with `n` choices for each."""
    adapter = addressed(http, service, body.model, body.caller or http.state.request_id)
    codec, key, limit_s = service.model.codec_for(adapter), key_of(http), deadline_s(http)
    grammar = await compiled(service, form_of(body), adapter)
    encoded = await asyncio.to_thread(lambda: [_encoded(codec, prompt) for prompt in body.prompt])
    requests = [
        Request(
            prompt=prompt,
            adapter=adapter,
            sampling=body.sampling(choice),
            max_tokens=body.max_tokens,
            stop_ids=codec.eos_ids,
            logprobs=body.logprobs,
            prompt_logprobs=body.echo and body.logprobs is not None,
            grammar=grammar,
            beams=body.beams,
            tenant=key.name,
            weight=key.weight,
            deadline_s=limit_s,
        )
        for prompt in encoded
        for choice in range(body.n)
    ]
    generation = Generation(service, requests, body.stop, choices=body.n)
    beginning = head("cmpl", http, service, body.model, adapter)
    reply = _CompletionReply(generation, body, codec, beginning)
    return await respond(http, generation, reply, stream=body.stream)


def _encoded(codec: ChatCodec, prompt: str | list[int]) -> tuple[int, ...]:
    return tuple(codec.encode_text(prompt) if isinstance(prompt, str) else prompt)


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
            | self._prompt_ids(index)
            for index, answer in enumerate(await self._generation.finished())
        ]
        return {**self._beginning, "choices": choices, "usage": self._generation.usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The echo of each prompt, then pieces of the choices as they come, then the usage if asked for."""
        offsets = [0] * len(self._generation.requests)
        for index in range(len(offsets) if self._body.echo or self._body.return_token_ids else 0):
            yield self._chunk(self._choice(index, self._echo(index), []) | self._prompt_ids(index))
        async for index, delta in self._generation.deltas():
            tokens = [delta.token] if delta.token is not None else []
            choice = self._choice(index, delta.text, tokens, offset=offsets[index], finish=delta.finish)
            offsets[index] += sum(len(self._codec.token_text(token.id)) for token in tokens)
            if delta.text or choice["logprobs"] or choice.get("token_ids") or delta.finish is not None:
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
        generated = [token.id for token in scored if not token.prompt]
        return choice | ({"token_ids": generated} if self._body.return_token_ids else {})

    def _prompt_ids(self, index: int) -> dict[str, Any]:
        if not self._body.return_token_ids:
            return {}
        return {"prompt_token_ids": list(self._generation.requests[index].prompt)}

    def _echo(self, index: int) -> str:
        if not self._body.echo:
            return ""
        prompt = self._body.prompt[index // self._body.n]
        return prompt if isinstance(prompt, str) else self._codec.decode(prompt)
