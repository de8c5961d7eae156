"""POST /v1/rerank: documents, ordered by relevance to a query, in the format of Jina and Cohere."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ptune.tasks.retrieval.infer import relevance, rerank_inputs

from .adapter_access import resolve_encoder_adapter
from .body import body_of
from .dependencies import EncoderServiceDep
from .embeddings import submit_text
from .encoder_call import run_encoder
from .request_context import context_of
from .retrieval_schemas import RerankRequest

router = APIRouter()
PATH = "/v1/rerank"


@router.post(PATH)
async def rerank(
    body: Annotated[RerankRequest, Depends(body_of(RerankRequest))],
    service: EncoderServiceDep,
    http: HttpRequest,
) -> Response:
    """A reranker scores each document together with the query; an embedding adapter compares vectors by cosine."""
    record = resolve_encoder_adapter(http, service, body, PATH)
    texts = body.texts
    submits = [submit_text(service, text, record) for text in rerank_inputs(body.query, texts, record)]
    outputs, call = await run_encoder(http, service, record.name, submits)
    scores = relevance(outputs, record)
    order = np.argsort(-scores, kind="stable")[: body.top_n].tolist()
    content: dict[str, Any] = {
        "id": f"rerank-{context_of(http).request_id}",
        "object": "list",
        "model": body.model,
        "results": [
            {
                "index": index,
                "relevance_score": float(scores[index]),
                **({"document": {"text": texts[index]}} if body.return_documents else {}),
            }
            for index in order
        ],
        "usage": {"prompt_tokens": call.prompt_tokens, "total_tokens": call.prompt_tokens},
    }
    return JSONResponse(content)
