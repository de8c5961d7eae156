"""POST /v1/recommend: what somebody had -> what comes next, with reasons. POST /v1/recommend/items: items by words."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ptune.tasks.recommendation.infer import answer, index_of
from ptune.tasks.retrieval.infer import ALL_IT_READS

from .body import body_of
from .embeddings import submitted
from .encoding import addressed, answered
from .recommend_schemas import ItemsRequest, RecommendRequest
from .service import TheEncoder

router = APIRouter()
PATH = "/v1/recommend"


@router.post(PATH)
async def recommend(
    body: Annotated[RecommendRequest, Depends(body_of(RecommendRequest))],
    service: TheEncoder,
    http: HttpRequest,
) -> Response:
    """The nearest items of the adapter's catalogue; titles that it lacks go through the encoder."""
    record = addressed(http, service, body, PATH)
    index = await asyncio.to_thread(index_of, service.model.engine.bundle.folder, record)
    question = body.question
    submits = [submitted(service, text, record, ALL_IT_READS) for text in question.texts]
    vectors, tokens = await answered(http, service, record.name, submits)
    width = index.vectors.shape[1]
    found = await asyncio.to_thread(
        answer, index, question, np.array(vectors, np.float32).reshape(len(vectors), width)
    )
    content: dict[str, Any] = {
        "id": f"recommend-{http.state.request_id}",
        "object": "list",
        "model": body.model,
        "data": [asdict(one) for one in found],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JSONResponse(content, headers={"x-ptune-adapter": service.catalogue.answered_by(record.name)})


@router.post(f"{PATH}/items")
async def items(
    body: Annotated[ItemsRequest, Depends(body_of(ItemsRequest))],
    service: TheEncoder,
    http: HttpRequest,
) -> Response:
    """Items of the adapter's catalogue whose title or name holds the words of `query`, any case; without words the first."""
    record = addressed(http, service, body, PATH)
    index = await asyncio.to_thread(index_of, service.model.engine.bundle.folder, record)
    found = await asyncio.to_thread(index.find, body.query, body.limit)
    data = [{"item": index.items[at], "title": index.titles[at]} for at in found]
    content = {"object": "list", "model": body.model, "data": data}
    return JSONResponse(content, headers={"x-ptune-adapter": service.catalogue.answered_by(record.name)})
