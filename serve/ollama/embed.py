"""POST /api/embed: texts -> vectors, in Ollama's format, by way of /v1/embeddings."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ..encoders.embeddings import embedded
from ..encoders.retrieval_schemas import EmbeddingsRequest
from ..http.dependencies import EncoderServiceDep
from ..openai.chat_translation import renaming
from .body import ollama_body_of
from .schemas import OllamaEmbedRequest

router = APIRouter()


@router.post("/api/embed")
async def embed(
    body: Annotated[OllamaEmbedRequest, Depends(ollama_body_of(OllamaEmbedRequest))],
    service: EncoderServiceDep,
    http: HttpRequest,
) -> Response:
    """A vector for each input. A text that is longer than the adapter reads is cut, unless `truncate` is false."""
    started_ns = time.perf_counter_ns()
    asked = EmbeddingsRequest(
        model=body.adapter,
        input=body.input,
        dimensions=body.dimensions,
        truncate_prompt_tokens=-1 if body.truncate else None,
    )
    with renaming({'"truncate_prompt_tokens": -1': '"truncate": true'}):
        vectors, call = await embedded(asked, service, http)
    return JSONResponse(
        {
            "model": body.model,
            "embeddings": vectors,
            "total_duration": time.perf_counter_ns() - started_ns,
            "load_duration": 0,
            "prompt_eval_count": call.prompt_tokens,
        }
    )
