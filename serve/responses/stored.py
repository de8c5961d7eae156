"""GET and DELETE /v1/responses/{response_id}, and its cancelling: what a key has stored, and what it is being told."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from ptune.errors import RequestError

from ..http.context import key_of
from ..http.dependencies import ChatServiceDep

router = APIRouter()
PATH = "/v1/responses/{response_id}"
_QUERY = {"stream": ("false",), "include_obfuscation": ("false",)}  # with the values that change nothing


@router.get(PATH)
async def stored_response(response_id: str, service: ChatServiceDep, http: HttpRequest) -> dict[str, Any]:
    """A response of this key: as it ended, or as it is now."""
    for name, value in http.query_params.items():
        if value not in _QUERY.get(name, ()):
            raise RequestError(
                f"{name[:40]} is not supported here", param=name[:40], code="unsupported_parameter"
            )
    key = key_of(http).name
    if (found := service.responses.find(key, response_id)) is not None:
        return found.response
    if (reply := service.responses.in_progress(key, response_id)) is not None:
        return reply.now()
    raise _unknown(response_id)


@router.delete(PATH)
async def forget_response(response_id: str, service: ChatServiceDep, http: HttpRequest) -> dict[str, Any]:
    """Forgets a response of this key. What went on from it stays."""
    if not service.responses.forget(key_of(http).name, response_id):
        raise _unknown(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post(f"{PATH}/cancel")
async def cancel_response(response_id: str, service: ChatServiceDep, http: HttpRequest) -> dict[str, Any]:
    """Ends a response that is being written; its stream ends with what there is of it."""
    key = key_of(http).name
    if service.responses.find(key, response_id) is not None:
        message = f"response {response_id[:80]!r} has ended; only one that is being written can be cancelled"
        raise RequestError(message, param="response_id", code="invalid_value")
    if (reply := service.responses.in_progress(key, response_id)) is None:
        raise _unknown(response_id)
    return reply.cancel()


def _unknown(response_id: str) -> RequestError:
    message = f"no response {response_id[:80]!r} is kept here"
    return RequestError(message, param="response_id", code="not_found", status=404)
