"""Errors in the form of the API that was asked, by its path: OpenAI's, but for the paths of other APIs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from ptune.errors import RequestError

Value = TypeVar("Value")
ErrorForm: TypeAlias = Callable[[RequestError], dict[str, Any]]

_OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai_error(error: RequestError) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}"""
    kind = _OPENAI_TYPES.get(error.status, _default(error, "server_error"))
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def anthropic_error(error: RequestError) -> dict[str, Any]:
    """{"type": "error", "error": {"type", "message"}}"""
    kind = _ANTHROPIC_TYPES.get(error.status, _default(error, "api_error"))
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


def plain_error(error: RequestError) -> dict[str, Any]:
    """{"error": message}, as Ollama's API and the Open Inference Protocol have it"""
    return {"error": str(error)}


FORMS: Mapping[str, ErrorForm] = {"/v1/messages": anthropic_error, "/api": plain_error, "/v2": plain_error}
"""By path; a path stands for all below it."""


def error_form(path: str) -> ErrorForm:
    """How errors of a request to this path are written."""
    return of_path(FORMS, path, openai_error)


def of_path(table: Mapping[str, Value], path: str, default: Value) -> Value:
    """The entry for a path, in a table whose paths stand for all below them."""
    return next((value for top, value in table.items() if f"{path}/".startswith(f"{top}/")), default)


def _default(error: RequestError, of_server: str) -> str:
    return of_server if error.status >= 500 else "invalid_request_error"
