"""POST /v1/completions"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.engine.decoder.request import NO_TOKEN, Token

from ..adapters.access import resolve_adapter
from ..http.body import body_of
from ..http.dependencies import ChatServiceDep
from .call import DecoderCall, FinishedSequence
from .engine_requests import engine_requests
from .logprobs import TextOffsets, completion_logprobs, prompt_logprobs
from .response import common_fields, respond
from .schemas import CompletionRequest
from .structured_output import compile_grammar, requested_output

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

router = APIRouter()


@router.post("/v1/completions")
async def completions(
    body: Annotated[CompletionRequest, Depends(body_of(CompletionRequest))],
    service: ChatServiceDep,
    http: HttpRequest,
) -> Response:
    """Continues each prompt, with `n` choices for each."""
    adapter = resolve_adapter(http, service, body.model, body.caller)
    codec = service.model.codec_for(adapter)
    grammar = await compile_grammar(service, requested_output(body, codec), adapter)
    encoded = await asyncio.to_thread(
        lambda: [_encoded(codec, prompt, special=body.add_special_tokens) for prompt in body.prompt]
    )
    requests = engine_requests(
        body,
        http,
        service,
        adapter,
        encoded,
        max_tokens=body.max_tokens,
        grammar=grammar,
        logprobs=body.logprobs,
        echoed=body.logprobs if body.echo else None,
    )
    call = DecoderCall(service, requests, body.stop, choices=body.n)
    common = common_fields("cmpl", http, service, body.model, adapter)
    reply = _CompletionReply(call, body, codec, common)
    return await respond(http, call, reply, stream=body.stream)


def _encoded(codec: ChatCodec, prompt: str | list[int], *, special: bool) -> list[int]:
    return codec.encode_text(prompt, special=special) if isinstance(prompt, str) else prompt


class _CompletionReply:
    """Writes answers as one `text_completion`, or as a stream of them."""

    def __init__(
        self, call: DecoderCall, body: CompletionRequest, codec: ChatCodec, common: dict[str, Any]
    ) -> None:
        self._call = call
        self._body = body
        self._codec = codec
        self._common = {**common, "object": "text_completion"}

    async def whole(self) -> dict[str, Any]:
        """All choices, and the usage."""
        answers = await self._call.finished()
        choices = [
            self._choice(
                index,
                self._echo(index) + answer.text,
                (answer.prompt if self._body.echo else []) + answer.tokens,
                finish=answer.finish,
            )
            | self._prompt_ids(index)
            | self._prompt_logprobs(answers[index - index % self._body.n])
            for index, answer in enumerate(answers)
        ]
        return {**self._common, "choices": choices, "usage": self._call.usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The echo of each prompt, then pieces of the choices as they arrive, then the usage if requested."""
        offsets = [TextOffsets() for _ in self._call.requests]
        for index in range(len(offsets) if self._body.echo or self._body.return_token_ids else 0):
            yield self._chunk(self._choice(index, self._echo(index), []) | self._prompt_ids(index))
        async for index, delta in self._call.deltas():
            tokens = [] if delta.token is None or delta.token.id == NO_TOKEN else [delta.token]
            choice = self._choice(index, delta.text, tokens, offsets=offsets[index], finish=delta.finish)
            if delta.text or choice["logprobs"] or choice.get("token_ids") or delta.finish is not None:
                yield self._chunk(choice)
        if self._body.include_usage:
            yield {**self._common, "choices": [], "usage": self._call.usage()}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._common, "choices": [choice]}
        return {**chunk, "usage": None} if self._body.include_usage else chunk

    def _choice(
        self,
        index: int,
        text: str,
        tokens: list[Token],
        *,
        offsets: TextOffsets | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        scored = [token for token in tokens if token.id != NO_TOKEN]
        most, logprobs = self._body.logprobs, None
        if most is not None and scored:
            logprobs = completion_logprobs(self._codec, scored, most, offsets or TextOffsets())
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        generated = [token.id for token in scored if not token.prompt]
        return choice | ({"token_ids": generated} if self._body.return_token_ids else {})

    def _prompt_ids(self, index: int) -> dict[str, Any]:
        if not self._body.return_token_ids:
            return {}
        return {"prompt_token_ids": list(self._call.requests[index].prompt)}

    def _prompt_logprobs(self, first: FinishedSequence) -> dict[str, Any]:
        """Of the prompt, if they were requested. first: of its choices."""
        most = self._body.prompt_logprobs
        return {} if most is None else {"prompt_logprobs": prompt_logprobs(self._codec, first.prompt, most)}

    def _echo(self, index: int) -> str:
        if not self._body.echo:
            return ""
        prompt = self._body.prompt[index // self._body.n]
        if isinstance(prompt, str) and self._body.truncate_prompt_tokens is None:
            return prompt
        return self._codec.decode(self._call.requests[index].prompt)
