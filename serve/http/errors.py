"""Errors as responses, in the form of the API that was asked (`error_forms`)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ptune.errors import RequestError, TemplateError

from ..access.limits import LimitReachedError
from ..other_routes import paths_of_tasks, where_to_ask
from .error_forms import error_form

UNSUPPORTED = "unsupported_parameter"
UNKNOWN = "unknown_parameter"
"""Error code for a known field that would change the answer, but is not supported yet."""


def error_response(error: RequestError, path: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as a response: 429 and 503 have `retry-after`, 401 and some 403 have `www-authenticate`.

    path: of the request, which decides the form.
    """
    extra = dict(headers or {})
    if error.status in (429, 503):
        wait_s = error.wait_s if isinstance(error, LimitReachedError) else 1.0
        extra["retry-after"] = str(max(math.ceil(wait_s), 1))
    if error.status == 401:
        extra["www-authenticate"] = "Bearer"
    if error.code == "insufficient_scope":
        extra["www-authenticate"] = 'Bearer error="insufficient_scope"'
    return JSONResponse(error_form(path)(error), error.status, extra)


def internal_error(request_id: str) -> RequestError:
    """The error for an unexpected exception, which tells the client only where the log has it."""
    return RequestError(
        f"internal error; the server's log has it under {request_id}", code="internal_error", status=500
    )


def engine_failed() -> RequestError:
    """The error for an answer that the engine could not compute."""
    return RequestError("the engine failed; the server's log says why", code="engine_error", status=500)


def shutting_down() -> RequestError:
    """The error for requests to a server that is shutting down."""
    return RequestError("the server is shutting down", code="shutting_down", status=503)


def invalid(error: ValidationError) -> RequestError:
    """The first problem of a request body: the field, what is wrong, and the value if it is short."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON: {problem['ctx']['error']}", code="invalid_json")
    field = _dotted(problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"{field}: there is no such field; leave it out"
        return RequestError(message, param=field, code=UNKNOWN)
    value = problem["input"]
    shown = f" (is {str(value)[:40]})" if isinstance(value, bool | int | float) else ""
    code = problem["type"] if problem["type"] in (UNSUPPORTED, UNKNOWN) else "invalid_value"
    return RequestError(f"{field or 'the body'}: {message}{shown}", param=field or None, code=code)


def _dotted(location: tuple[int | str, ...]) -> str:
    """('messages', 0, 'role') -> 'messages[0].role', without pydantic's marker for keys of a mapping."""
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "[key]"
    )
    return path.removeprefix(".")


def install(app: FastAPI) -> None:
    """Sends every error of the app in the form of the API that was asked."""

    @app.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> JSONResponse:
        return error_response(error, request.url.path)

    @app.exception_handler(TemplateError)
    async def template_error(request: Request, error: TemplateError) -> JSONResponse:
        told = RequestError(str(error), param="messages", code="invalid_value")
        return error_response(told, request.url.path)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        message = f"{request.method} {path}: {error.detail}"
        if error.status_code == 404 and path in paths_of_tasks():
            told = where_to_ask(app.state.service, app.state.document()["paths"])
            message = f"{request.method} {path}: {told}"
            elsewhere = RequestError(message, code="wrong_endpoint", status=404)
            return error_response(elsewhere, path, error.headers)
        return error_response(RequestError(message, status=error.status_code), path, error.headers)
