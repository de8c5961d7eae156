"""From a checked body and its prompts to requests for the decoder's engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request as HttpRequest

from ptune.engine.decoder.request import Request
from ptune.errors import RequestError
from ptune.tasks.chat.seen import pictures_of

from ..http.context import context_of, share_of
from ..http.deadline import deadline_s
from ..receipts.receipt import asked, leave_receipt, seeded
from .schemas import MAX_PROMPT_LOGPROBS

if TYPE_CHECKING:
    from ptune.engine.decoder.answers.grammar import Grammar
    from ptune.engine.decoder.answers.thinking import ThinkingBudget

    from ..service import ChatService
    from .schemas import Generate


def engine_requests(
    body: Generate,
    http: HttpRequest,
    service: ChatService,
    adapter: str,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | None,
    to_context_end: bool = False,
    grammar: Grammar | None,
    logprobs: int | None,
    echoed: int | None = None,
    thinking: ThinkingBudget | None = None,
) -> list[Request]:
    """One request for each choice of each prompt. max_tokens: None = as many as fit into the context.

    to_context_end: an answer of max_tokens that does not fit into the context ends where that ends; else it is refused.
    echoed: how many alternatives of each prompt token the choices tell; None = they tell no prompt. What `prompt_logprobs`
    asks for is computed once a prompt, by its first choice.
    Raises: RequestError for fields that do not fit each other.
    """
    engine, share, limit_s = service.model.engine, share_of(http), deadline_s(http)
    codec = service.model.codec_for(adapter)
    tokens = body.tokens.for_engine(codec, engine.vocab_size(adapter), formed=grammar is not None)
    context = engine.longest(1 if body.beams is None else body.beams.num_beams, adapter)
    room = context - (1 if max_tokens is None or to_context_end else max_tokens)
    kept = [body.cut(prompt, room) for prompt in prompts]
    _check_prompt_logprobs(body, kept)
    first = max((most for most in (echoed, body.prompt_logprobs) if most is not None), default=None)
    keeps = service.settings.receipts is not None
    body = seeded(body) if keeps else body
    requests = [
        Request(
            prompt=prompt,
            adapter=adapter,
            sampling=body.sampling(choice),
            max_tokens=_most_tokens(max_tokens, context - len(prompt), to_context_end),
            logprobs=logprobs,
            prompt_logprobs=first if choice == 0 else echoed,
            grammar=grammar,
            beams=body.beams,
            thinking=thinking,
            pictures=pictures_of(whole),
            tenant=share.tenant,
            weight=share.weight,
            deadline_s=limit_s,
            **tokens,
        )
        for prompt, whole in zip(kept, prompts, strict=True)
        for choice in range(body.n)
    ]
    if keeps:
        context_of(http).at_end = partial(leave_receipt, service, asked(body, adapter, requests))
    return requests


def _most_tokens(asked: int | None, left: int, to_context_end: bool) -> int:
    """Most tokens of an answer. left: what the prompt leaves of the context; the engine refuses one that leaves nothing."""
    fitting = max(left, 1)
    if asked is None:
        return fitting
    return min(asked, fitting) if to_context_end else asked


def _check_prompt_logprobs(body: Generate, prompts: Sequence[Sequence[int]]) -> None:
    """Raises: RequestError where the prompts' log-probabilities would make too large an answer."""
    if (most := body.prompt_logprobs) is None:
        return
    tokens = sum(map(len, prompts))
    if (entries := tokens * (1 + most)) > MAX_PROMPT_LOGPROBS:
        message = (
            f"prompt_logprobs {most} of {tokens} prompt tokens are {entries} entries, at most {MAX_PROMPT_LOGPROBS} are"
            " told: send a smaller number, fewer prompts or shorter ones"
        )
        raise RequestError(message, param="prompt_logprobs", code="invalid_value")
