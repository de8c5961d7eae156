"""The receipt of one answer of a chat model."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import onnxruntime

from ptune.formats.adapter_sum import digest_of
from ptune.formats.bundle import BASE
from ptune.version import __version__

if TYPE_CHECKING:
    from ptune.engine.decoder.request import Request

    from ..http.context import RequestContext
    from ..openai.call import DecoderCall
    from ..openai.schemas import Generate
    from ..service import ChatService

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_NOT_ASKED_AGAIN = ("stream", "stream_options", "user", "safety_identifier", "max_completion_tokens")


@dataclass(frozen=True)
class Asked:
    """What the engine was asked, as a request to one of OpenAI's two endpoints, whichever API it came by."""

    endpoint: str
    body: dict[str, Any]
    adapter: str


def seeded(body: Generate) -> Generate:
    """The body with the seed that its answers will be drawn by, where it named none."""
    return body if body.seed is not None else body.model_copy(update={"seed": secrets.randbits(62)})


def asked(body: Generate, adapter: str, requests: list[Request]) -> Asked:
    """requests: those of the engine; what became of the body's limit of tokens is in them."""
    written = body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name in _NOT_ASKED_AGAIN:
        written.pop(name, None)
    chat = "messages" in written
    limit = {"max_tokens": requests[0].max_tokens} if chat else {}
    again = {"model": adapter, "seed": body.seed, "return_token_ids": True, **limit}
    return Asked(CHAT if chat else COMPLETIONS, {**written, **again}, adapter)


def leave_receipt(service: ChatService, asked: Asked, context: RequestContext) -> None:
    """Writes the receipt of a request that has ended. One that the engine never began has none."""
    if service.settings.receipts is None or context.call is None:
        return
    manifest = service.model.engine.bundle.manifest
    service.settings.receipts.write(
        {
            "id": context.request_id,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "key": None if context.key is None else context.key.name,
            "endpoint": asked.endpoint,
            "body": asked.body,
            "thinking_token_budget": service.settings.thinking_token_budget,
            "base": manifest.base.hash,
            "adapter": None if asked.adapter == BASE else digest_of(asked.adapter, manifest.adapters),
            "versions": {"ptune": __version__, "onnxruntime": onnxruntime.__version__},
            "answers": cast("DecoderCall", context.call).answers(),
        }
    )
