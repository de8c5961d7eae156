"""POST /tokenize, POST /detokenize and GET /tokenizer_info, in vLLM's shapes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ptune.errors import RequestError
from ptune.formats.bundle import BASE

from ..adapters.access import resolve_adapter
from ..http.body import body_of
from ..http.dependencies import ChatServiceDep
from .images import plain_tokens, seen_prompt
from .schemas import DetokenizeRequest, TokenizeRequest

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

    from ..service import ChatService

router = APIRouter()


@router.post("/tokenize")
async def tokenize(
    body: Annotated[TokenizeRequest, Depends(body_of(TokenizeRequest))],
    service: ChatServiceDep,
    http: HttpRequest,
) -> Response:
    """The tokens of a text, or of a conversation formatted by the model's template."""
    adapter = resolve_adapter(http, service, body.model or BASE)
    codec = service.model.codec_for(adapter)
    tokens = await asyncio.to_thread(_encoded, codec, service, body)
    answer: dict[str, Any] = {
        "count": len(tokens),
        "max_model_len": service.model.engine.longest(adapter=adapter),
        "tokens": tokens,
    }
    if body.return_token_strs:
        answer["token_strs"] = [codec.token_text(token) for token in tokens]
    return JSONResponse(answer)


@router.post("/detokenize")
async def detokenize(
    body: Annotated[DetokenizeRequest, Depends(body_of(DetokenizeRequest))],
    service: ChatServiceDep,
    http: HttpRequest,
) -> Response:
    """The text of tokens, with special tokens by name."""
    adapter = resolve_adapter(http, service, body.model or BASE)
    vocab = service.model.engine.vocab_size(adapter)
    if unknown := [token for token in body.tokens if token >= vocab]:
        message = f"tokens: no token {unknown[0]}; the vocabulary has {vocab}"
        raise RequestError(message, param="tokens", code="invalid_value")
    prompt = await asyncio.to_thread(service.model.codec_for(adapter).spell, body.tokens)
    return JSONResponse({"prompt": prompt})


@router.get("/tokenizer_info")
async def tokenizer_info(service: ChatServiceDep, http: HttpRequest, model: str = BASE) -> Response:
    """The special tokens by role, and the chat template, which lm-eval needs."""
    adapter = resolve_adapter(http, service, model)
    codec = service.model.codec_for(adapter)
    info = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": service.model.engine.longest(adapter=adapter),
        "eos_token": None,
        **codec.special_tokens,
        "chat_template": None if codec.template is None else codec.template.source,
    }
    return JSONResponse(info)


def _encoded(codec: ChatCodec, service: ChatService, body: TokenizeRequest) -> list[int]:
    if body.prompt is not None:
        return codec.encode_text(body.prompt, special=body.add_special_tokens)
    messages = [message.raw() for message in body.messages]
    prompt = seen_prompt(codec, service, messages, tools=body.tools or None, **body.rendering)
    return plain_tokens(codec, prompt)
