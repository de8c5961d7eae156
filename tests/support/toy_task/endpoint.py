"""POST /v1/length: a text -> short or long. An endpoint stands on the server, so only the table of tasks names it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from ptune_serve.adapters.access import resolve_encoder_adapter
from ptune_serve.encoders.schemas import EncoderRequest
from ptune_serve.http.body import body_of
from ptune_serve.http.deadline import deadline_s
from ptune_serve.http.dependencies import EncoderServiceDep

router = APIRouter()


class LengthRequest(EncoderRequest):
    """POST /v1/length"""

    text: str


@router.post("/v1/length")
async def length(
    body: Annotated[LengthRequest, Depends(body_of(LengthRequest))],
    service: EncoderServiceDep,
    http: HttpRequest,
) -> dict[str, Any]:
    """Says which it is."""
    record = resolve_encoder_adapter(http, service, body, "/v1/length")
    said = await asyncio.wrap_future(service.model.submit(body.text, record.name, deadline_s(http)))
    return {"model": body.model, "length": said.label}
