"""Reads a request's body: as JSON, within a limit of size and time, into its schema."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from ptune.errors import RequestError

from .errors import invalid
from .service import Service, TheService

UPLOAD_LIMIT_S = 60
_PATIENCE = 8  # so many times the limit is read and thrown away, that the client may get to read the refusal

Body = TypeVar("Body", bound=BaseModel)


def body_of(kind: type[Body]) -> Callable[[Request, TheService], Awaitable[Body]]:
    """A dependency that gives the endpoint its body. Raises: RequestError (400, 408, 413, 415)."""

    async def read(request: Request, service: TheService) -> Body:
        # A browser sends any other type across origins without asking first; so no web page can use a local server.
        if media_type(request) != "application/json":
            raise RequestError(
                "send `Content-Type: application/json`", code="unsupported_media_type", status=415
            )
        return validated(kind, await raw_body(request, service))

    read.kind = kind  # type: ignore[attr-defined] # for /openapi.json
    return read


def media_type(request: Request) -> str:
    """`Content-Type` without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def raw_body(request: Request, service: Service) -> bytes:
    """The bytes of a body. Raises: RequestError (408, 413, 415)."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":  # a small body could become a huge one
        message = f"send the body as it is, without Content-Encoding (is {coding[:40]!r})"
        raise RequestError(message, code="unsupported_content_encoding", status=415)
    length = request.headers.get("content-length", "0")
    if len(length) > 15 or (length.isdecimal() and int(length) > _PATIENCE * service.max_body_bytes):
        raise _too_large(service.max_body_bytes)
    try:
        async with asyncio.timeout(UPLOAD_LIMIT_S):
            return await _read(request, service.max_body_bytes)
    except TimeoutError:
        raise RequestError("the body did not arrive in time", code="timeout", status=408) from None


def validated(kind: type[Body], raw: bytes) -> Body:
    """JSON in a schema. Raises: RequestError(400)."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error) from None


async def _read(request: Request, limit_bytes: int) -> bytes:
    raw = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit_bytes:
            raw += chunk
        elif size > _PATIENCE * limit_bytes:
            break
    if size > limit_bytes:
        raise _too_large(limit_bytes)
    return bytes(raw)


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(f"the body is over {limit_bytes} bytes", code="body_too_large", status=413)
