"""POST /v1/rerank: documents, ordered by relevance to a query, in the format of Jina and Cohere."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ptune.formats.task_names import TEXT_RANKING
from ptune.tasks.retrieval.infer import check_cut, relevance, rerank_inputs

from ..adapters.access import resolve_encoder_adapter
from ..http.body import body_of
from ..http.context import context_of
from ..http.dependencies import EncoderServiceDep
from .call import run_encoder
from .embeddings import tokenise_text
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
    cut, pairs = body.truncate_prompt_tokens, record.task == TEXT_RANKING
    check_cut(record, service.model.codec, cut)
    inputs = [tokenise_text(service, one, record, cut) for one in rerank_inputs(body.query, texts, record)]
    places = [*(() if pairs else ("query",)), *(f"documents[{index}]" for index in range(len(texts)))]
    outputs, call = await run_encoder(http, service, record.name, inputs, places)
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
