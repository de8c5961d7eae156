"""POST /v1/feedback: how good an answer was, by its id."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from ..http.body import body_of
from ..http.context import key_of
from ..http.dependencies import ServiceDep

router = APIRouter()


class Feedback(BaseModel):
    """id: of the answer, or its `x-request-id`. score: from 0, useless, to 1, right."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=160)]
    score: Annotated[float, Field(ge=0, le=1)]


@router.post("/v1/feedback")
async def feedback(
    http: Request, body: Annotated[Feedback, Depends(body_of(Feedback))], service: ServiceDep
) -> dict[str, Any]:
    """Counts a score for the canary's trial that the answer belongs to. `counted` is false where it belongs to none."""
    counted = await service.judged(body.id, key_of(http).name, body.score)
    return {"object": "feedback", "id": body.id, "counted": counted}
