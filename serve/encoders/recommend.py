"""POST /v1/recommend: a history -> recommended items, with reasons. POST /v1/recommend/items: finds items by words."""

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

from ..adapters.access import resolve_encoder_adapter
from ..http.body import body_of
from ..http.context import context_of
from ..http.dependencies import EncoderServiceDep
from .call import run_encoder
from .embeddings import tokenise_text
from .recommend_schemas import ItemsRequest, RecommendRequest

router = APIRouter()
PATH = "/v1/recommend"


@router.post(PATH)
async def recommend(
    body: Annotated[RecommendRequest, Depends(body_of(RecommendRequest))],
    service: EncoderServiceDep,
    http: HttpRequest,
) -> Response:
    """The nearest items among the adapter's items; titles that are not among them are embedded first."""
    record = resolve_encoder_adapter(http, service, body, PATH)
    index = await asyncio.to_thread(index_of, service.model.engine.bundle.folder, record)
    query = body.query
    inputs = [tokenise_text(service, text, record, ALL_IT_READS) for text in query.texts]
    vectors, call = await run_encoder(http, service, record.name, inputs)
    width = index.vectors.shape[1]
    recommended = await asyncio.to_thread(
        answer, index, query, np.array(vectors, np.float32).reshape(len(vectors), width)
    )
    content: dict[str, Any] = {
        "id": f"recommend-{context_of(http).request_id}",
        "object": "list",
        "model": body.model,
        "data": [asdict(item) for item in recommended],
        "usage": {"prompt_tokens": call.prompt_tokens, "total_tokens": call.prompt_tokens},
    }
    return JSONResponse(content)


@router.post(f"{PATH}/items")
async def items(
    body: Annotated[ItemsRequest, Depends(body_of(ItemsRequest))],
    service: EncoderServiceDep,
    http: HttpRequest,
) -> Response:
    """Items whose title or name contains the words of `query`, ignoring case; the first items if there are no words."""
    record = resolve_encoder_adapter(http, service, body, PATH)
    index = await asyncio.to_thread(index_of, service.model.engine.bundle.folder, record)
    positions = await asyncio.to_thread(index.find, body.query, body.limit)
    data = [{"item": index.items[position], "title": index.titles[position]} for position in positions]
    return JSONResponse({"object": "list", "model": body.model, "data": data})
