"""POST /v1/rerank: documents by how well they answer a query, in the shape of Jina and Cohere."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ptune.tasks.retrieval.infer import relevance, rerank_inputs

from .body import body_of
from .embeddings import submitted
from .encoding import addressed, answered
from .retrieval_schemas import RerankRequest
from .service import TheEncoder

router = APIRouter()
PATH = "/v1/rerank"


@router.post(PATH)
async def rerank(
    body: Annotated[RerankRequest, Depends(body_of(RerankRequest))],
    service: TheEncoder,
    http: HttpRequest,
) -> Response:
    """A reranker scores each document with the query; an adapter of vectors compares theirs by cosine."""
    record = addressed(http, service, body, PATH)
    texts = body.texts
    submits = [submitted(service, one, record) for one in rerank_inputs(body.query, texts, record)]
    outputs, tokens = await answered(http, service, record.name, submits)
    scores = relevance(outputs, record)
    order = np.argsort(-scores, kind="stable")[: body.top_n].tolist()
    content: dict[str, Any] = {
        "id": f"rerank-{http.state.request_id}",
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
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JSONResponse(content, headers={"x-ptune-adapter": service.catalogue.answered_by(record.name)})
