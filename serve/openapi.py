"""The document at /openapi.json, from the routes and the schemas that parse requests.

The server parses bodies itself, without FastAPI, so this adds their schemas to FastAPI's document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ptune.version import __version__

from .fields.message import Tool, ToolCall
from .http.error_forms import of_path
from .response_schemas import COMPONENTS, ERROR, ERRORS, RESPONSES

_REFERENCES = "#/components/schemas/{model}"


def document(*routers: APIRouter) -> dict[str, Any]:
    """The OpenAPI document of an app with these routers."""
    routes = [route for router in routers for route in router.routes]
    api = get_openapi(
        title="ptune",
        version=__version__,
        description="A fine-tuned model and its adapters, with OpenAI's API. `model` names the adapter.",
        routes=routes,
    )
    kinds: set[type[BaseModel]] = {Tool, ToolCall}
    for route in routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = api["paths"][route.path][method.lower()]
            operation["responses"] = _responses(route.path)
            if (kind := body_kind(route.dependant)) is not None:
                kinds.add(kind)
                schema = {"$ref": _REFERENCES.format(model=kind.__name__)}
                operation["requestBody"] = {
                    "required": True,
                    "content": {"application/json": {"schema": schema}},
                }
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, definitions = models_json_schema([(kind, "validation") for kind in ordered], ref_template=_REFERENCES)
    api["components"] = {"schemas": definitions["$defs"] | COMPONENTS}
    return api


def _responses(path: str) -> dict[str, Any]:
    """The successful response, and the error format."""
    content = RESPONSES.get(path, {"application/json": {"type": "object"}})  # a task's own endpoint
    return {
        "200": {
            "description": "The answer",
            "content": {media: {"schema": schema} for media, schema in content.items()},
        },
        "default": {
            "description": "An error",
            "content": {"application/json": {"schema": of_path(ERRORS, path, ERROR)}},
        },
    }


def body_kind(dependant: Dependant) -> type[BaseModel] | None:
    """The schema of the body that one of an endpoint's dependencies parses; None if none does."""
    kinds = (getattr(each.call, "kind", None) for each in _all(dependant))
    return next((kind for kind in kinds if kind is not None), None)


def _all(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _all(each)
