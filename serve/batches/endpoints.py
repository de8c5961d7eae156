"""/v1/batches: OpenAI's Batch API."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from ptune.errors import RequestError

from ..files.endpoints import files_are_off
from ..files.listing import check_names, page_of
from ..http.body import body_of
from ..http.context import key_of
from ..http.dependencies import ServiceDep, refuse_while_draining
from .runner import BatchRunner
from .schemas import BatchRequest

router = APIRouter()


def batches_of(service: ServiceDep) -> BatchRunner:
    """The batches of this server. Raises: RequestError(404) if it runs none."""
    if service.batches is None:
        raise files_are_off()
    return service.batches


BatchesDep = Annotated[BatchRunner, Depends(batches_of)]


@router.post("/v1/batches", dependencies=[Depends(refuse_while_draining)])
async def create(
    batches: BatchesDep, body: Annotated[BatchRequest, Depends(body_of(BatchRequest))], http: HttpRequest
) -> dict[str, Any]:
    """Begins to answer the requests of a file."""
    if body.endpoint not in batches.inputs.endpoints:
        known = ", ".join(sorted(batches.inputs.endpoints))
        message = f"endpoint: batches are for {known} here (is {body.endpoint[:60]!r})"
        raise RequestError(message, param="endpoint", code="invalid_value")
    batch = await asyncio.to_thread(batches.store.create, key_of(http).name, body)
    batches.begin(batch)
    return batch.card()


@router.get("/v1/batches")
async def batches_of_key(http: HttpRequest, batches: BatchesDep) -> dict[str, Any]:
    """The batches of this key, newest first."""
    check_names(http.query_params, "limit", "after")
    found = await asyncio.to_thread(batches.store.of_key, key_of(http).name)
    return page_of(http, [batch.card() for batch in found], most=100, default=20)


@router.get("/v1/batches/{batch_id}")
async def one_batch(batch_id: str, http: HttpRequest, batches: BatchesDep) -> dict[str, Any]:
    """Where a batch of this key stands."""
    return batches.store.find(key_of(http).name, batch_id).card()


@router.post("/v1/batches/{batch_id}/cancel", dependencies=[Depends(refuse_while_draining)])
async def cancel(batch_id: str, http: HttpRequest, batches: BatchesDep) -> dict[str, Any]:
    """Gives up the requests that are not answered yet; the answers that are there are kept."""
    batch = batches.store.find(key_of(http).name, batch_id)
    await batches.cancel(batch)
    return batch.card()
