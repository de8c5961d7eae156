"""Reads the JSON body of a request into its schema, within limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from ptune.errors import RequestError

from ..service import Service
from .dependencies import ServiceDep
from .errors import invalid

UPLOAD_LIMIT_S = 60
_READ_ON = 8  # times the limit: as much is read and discarded, so that the client gets to read the error

Body = TypeVar("Body", bound=BaseModel)


def require_json(request: Request) -> None:
    """Raises: RequestError(415) for a body of another content type.

    Browsers send JSON across origins only after a preflight request, so no web page can use a local server.
    """
    if media_type(request) != "application/json":
        raise RequestError("send `Content-Type: application/json`", code="unsupported_media_type", status=415)


def body_of(
    kind: type[Body], check: Callable[[Request], None] = require_json
) -> Callable[[Request, ServiceDep], Awaitable[Body]]:
    """A dependency that returns the body of a request, whose headers `check` accepts.

    Raises: RequestError (400, 408, 413, 415).
    """

    async def read(request: Request, service: ServiceDep) -> Body:
        check(request)
        return validated(kind, await raw_body(request, service))

    read.kind = kind  # type: ignore[attr-defined] # for /openapi.json
    return read


def media_type(request: Request) -> str:
    """The `Content-Type` header without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def raw_body(request: Request, service: Service) -> bytes:
    """The bytes of the body. Raises: RequestError (408, 413, 415)."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":  # a small compressed body can become a huge one
        message = f"send the body as it is, without Content-Encoding (is {coding[:40]!r})"
        raise RequestError(message, code="unsupported_content_encoding", status=415)
    length = request.headers.get("content-length", "0")
    if len(length) > 15 or (length.isdecimal() and int(length) > _READ_ON * service.max_body_bytes):
        raise _too_large(service.max_body_bytes)
    try:
        async with asyncio.timeout(UPLOAD_LIMIT_S):
            return await _read(request, service.max_body_bytes)
    except TimeoutError:
        raise RequestError("the body did not arrive in time", code="timeout", status=408) from None


def validated(kind: type[Body], raw: bytes) -> Body:
    """Parses JSON into a schema. Raises: RequestError(400)."""
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
        elif size > _READ_ON * limit_bytes:
            break
    if size > limit_bytes:
        raise _too_large(limit_bytes)
    return bytes(raw)


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(f"the body is over {limit_bytes} bytes", code="body_too_large", status=413)
