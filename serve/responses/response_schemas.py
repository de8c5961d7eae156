"""JSON schemas of the responses of OpenAI's Responses API, for /openapi.json."""

from __future__ import annotations

from ..fields.json_schema import BOOLEAN, INTEGER, STRING, Schema, component, list_of, object_of, or_null

_texts = {"type": STRING, "text": STRING}
_item: Schema = {
    "anyOf": [
        object_of(
            {
                "type": {"const": "reasoning"},
                "id": STRING,
                "status": STRING,
                "summary": list_of(object_of(_texts)),
                "content": list_of(object_of(_texts)),
            }
        ),
        object_of(
            {
                "type": {"const": "message"},
                "id": STRING,
                "status": STRING,
                "role": {"const": "assistant"},
                "content": list_of(object_of(_texts)),
            }
        ),
        object_of(
            {
                "type": {"const": "function_call"},
                "id": STRING,
                "status": STRING,
                "call_id": STRING,
                "name": STRING,
                "arguments": STRING,
            }
        ),
    ]
}

COMPONENTS: dict[str, Schema] = {
    "ResponseAnswer": object_of(
        {
            "id": STRING,
            "object": {"const": "response"},
            "created_at": INTEGER,
            "model": STRING,
            "status": {"enum": ["in_progress", "completed", "incomplete", "cancelled"]},
            "error": {"type": "null"},
            "incomplete_details": or_null(object_of({"reason": {"const": "max_output_tokens"}})),
            "output": list_of(_item),
            "previous_response_id": or_null(STRING),
            "store": BOOLEAN,
            "usage": or_null(
                object_of({"input_tokens": INTEGER, "output_tokens": INTEGER, "total_tokens": INTEGER})
            ),
        }
    ),
}

_EVENTS: Schema = {
    "type": "string",
    "description": "Server-sent events, each called by its `type`, from response.created to response.completed.",
}

RESPONSES: dict[str, dict[str, Schema]] = {
    "/v1/responses": {"application/json": component("ResponseAnswer"), "text/event-stream": _EVENTS},
    "/v1/responses/{response_id}": {
        "application/json": {
            "anyOf": [component("ResponseAnswer"), object_of({"id": STRING, "deleted": {"const": True}})]
        }
    },
    "/v1/responses/{response_id}/cancel": {"application/json": component("ResponseAnswer")},
}
