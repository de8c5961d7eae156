"""Reads a form with files (`multipart/form-data`), within limits of size and time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from ptune.errors import RequestError

UPLOAD_LIMIT_S = 600


async def read_form(
    request: Request,
    *,
    limit_bytes: int,
    too_large: RequestError,
    unreadable: Callable[[str], RequestError],
    max_files: int,
    max_fields: int,
) -> FormData:
    """The fields and files of a form; large files are kept on disk.

    too_large: raised for a body over limit_bytes. unreadable: the error for what is no form, from its reason.
    Raises: RequestError, one of these, or 403 from another site's page, 408, 507.
    """
    _refuse_other_sites(request)
    try:
        async with asyncio.timeout(UPLOAD_LIMIT_S):
            content = _bounded(request, limit_bytes, too_large)
            parser = MultiPartParser(request.headers, content, max_files=max_files, max_fields=max_fields)
            return await parser.parse()
    except TimeoutError:
        raise RequestError("the files did not arrive in time", code="timeout", status=408) from None
    except OSError as error:  # writing a large file
        raise not_stored(error) from None
    except MultiPartException as error:
        raise unreadable(f"the form cannot be read: {error.message}") from None
    except (KeyError, ValueError) as error:  # a Content-Type without a boundary, broken headers
        raise unreadable(f"the form cannot be read: {error}") from None


def not_stored(error: OSError) -> RequestError:
    """The error for files that the disk does not take."""
    why = "" if error.errno is None else f": {os.strerror(error.errno)}"
    return RequestError(f"the server cannot store the files{why}", code="not_stored", status=507)


async def _bounded(
    request: Request, limit_bytes: int, too_large: RequestError
) -> AsyncGenerator[bytes, None]:
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise too_large
        yield chunk


def _refuse_other_sites(request: Request) -> None:
    """Raises: RequestError(403) for a form from another site's page: browsers send forms across origins without a preflight."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise RequestError("a page of another site may not send forms here", code="cross_origin", status=403)
