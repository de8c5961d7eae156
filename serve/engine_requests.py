"""From a checked body and its prompts to requests for the decoder's engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import Request as HttpRequest

from ptune.engine.decoder.request import Request

from .deadline import deadline_s
from .request_context import key_of

if TYPE_CHECKING:
    from ptune.engine.decoder.grammar import Grammar
    from ptune.engine.decoder.thinking import ThinkingBudget

    from .schemas import Generate
    from .service import ChatService


def engine_requests(
    body: Generate,
    http: HttpRequest,
    service: ChatService,
    adapter: str,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | None,
    grammar: Grammar | None,
    logprobs: int | None,
    prompt_logprobs: bool = False,
    thinking: ThinkingBudget | None = None,
) -> list[Request]:
    """One request for each choice of each prompt. max_tokens: None = as many as fit into the context.

    Raises: RequestError for fields that do not fit each other.
    """
    engine, key, limit_s = service.model.engine, key_of(http), deadline_s(http)
    codec = service.model.codec_for(adapter)
    tokens = body.tokens.for_engine(codec, engine.vocab_size(adapter), formed=grammar is not None)
    context = engine.context if body.beams is None else engine.longest(body.beams.num_beams)
    room = context - (1 if max_tokens is None else max_tokens)
    kept = [body.cut(prompt, room) for prompt in prompts]
    return [
        Request(
            prompt=prompt,
            adapter=adapter,
            sampling=body.sampling(choice),
            # the engine refuses a prompt that leaves no room
            max_tokens=max(context - len(prompt), 1) if max_tokens is None else max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            grammar=grammar,
            beams=body.beams,
            thinking=thinking,
            tenant=key.name,
            weight=key.weight,
            deadline_s=limit_s,
            **tokens,
        )
        for prompt in kept
        for choice in range(body.n)
    ]
