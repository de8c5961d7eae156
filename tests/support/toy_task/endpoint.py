"""POST /v1/length: a text -> short or long. An endpoint stands on the server, so only the table of tasks names it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from ptune_serve.body import body_of
from ptune_serve.encoder_schemas import Asking
from ptune_serve.encoding import addressed
from ptune_serve.service import TheEncoder

router = APIRouter()


class LengthRequest(Asking):
    """POST /v1/length"""

    text: str


@router.post("/v1/length")
async def length(
    body: Annotated[LengthRequest, Depends(body_of(LengthRequest))], service: TheEncoder, http: HttpRequest
) -> dict[str, Any]:
    """Says which it is."""
    record = addressed(http, service, body, "/v1/length")
    said = await asyncio.wrap_future(service.model.submit(body.text, record.name))
    return {"model": body.model, "length": said.label}
