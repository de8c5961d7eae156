"""JSON schemas of the responses of OpenAI's Files and Batch APIs, for /openapi.json."""

from __future__ import annotations

from typing import get_args

from ..fields.json_schema import BOOLEAN, INTEGER, STRING, Schema, component, list_of, object_of, or_null
from ..files.stored_file import Purpose
from .batch import Status

_times = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
_error = object_of({"code": STRING, "message": STRING, "line": or_null(INTEGER), "param": or_null(STRING)})

COMPONENTS: dict[str, Schema] = {
    "File": object_of(
        {
            "id": STRING,
            "object": {"const": "file"},
            "bytes": INTEGER,
            "created_at": INTEGER,
            "expires_at": INTEGER,
            "filename": STRING,
            "purpose": {"enum": list(get_args(Purpose))},
            "status": {"const": "processed"},
        }
    ),
    "Batch": object_of(
        {
            "id": STRING,
            "object": {"const": "batch"},
            "endpoint": STRING,
            "model": or_null(STRING),
            "errors": or_null(object_of({"object": {"const": "list"}, "data": list_of(_error)})),
            "input_file_id": STRING,
            "completion_window": STRING,
            "status": {"enum": list(get_args(Status))},
            "output_file_id": or_null(STRING),
            "error_file_id": or_null(STRING),
            "created_at": INTEGER,
            "expires_at": INTEGER,
            **{f"{name}_at": or_null(INTEGER) for name in _times},
            "request_counts": object_of({"total": INTEGER, "completed": INTEGER, "failed": INTEGER}),
            "usage": object_of({"input_tokens": INTEGER, "output_tokens": INTEGER, "total_tokens": INTEGER}),
            "metadata": or_null({"type": "object", "additionalProperties": STRING}),
        }
    ),
}


def _page(name: str) -> Schema:
    ids = {"first_id": or_null(STRING), "last_id": or_null(STRING)}
    return object_of(
        {"object": {"const": "list"}, "data": list_of(component(name)), **ids, "has_more": BOOLEAN}
    )


_gone = object_of({"id": STRING, "object": {"const": "file"}, "deleted": {"const": True}})
_lines: Schema = {"type": "string", "description": "One JSON object a line."}

RESPONSES: dict[str, dict[str, Schema]] = {
    "/v1/files": {"application/json": {"anyOf": [component("File"), _page("File")]}},
    "/v1/files/{file_id}": {"application/json": {"anyOf": [component("File"), _gone]}},
    "/v1/files/{file_id}/content": {"application/jsonl": _lines},
    "/v1/batches": {"application/json": {"anyOf": [component("Batch"), _page("Batch")]}},
    "/v1/batches/{batch_id}": {"application/json": component("Batch")},
    "/v1/batches/{batch_id}/cancel": {"application/json": component("Batch")},
}
