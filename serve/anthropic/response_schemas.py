"""JSON schemas of the responses of Anthropic's Messages API, for /openapi.json."""

from __future__ import annotations

from ..fields.json_schema import INTEGER, STRING, Schema, component, list_of, object_of, or_null

_blocks: Schema = {
    "anyOf": [
        object_of({"type": {"const": "thinking"}, "thinking": STRING, "signature": STRING}),
        object_of({"type": {"const": "text"}, "text": STRING}),
        object_of({"type": {"const": "tool_use"}, "id": STRING, "name": STRING, "input": {"type": "object"}}),
    ]
}

COMPONENTS: dict[str, Schema] = {
    "MessagesError": object_of(
        {"type": {"const": "error"}, "error": object_of({"type": STRING, "message": STRING})}
    ),
    "MessageAnswer": object_of(
        {
            "id": STRING,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": STRING,
            "content": list_of(_blocks),
            "stop_reason": {
                "enum": [
                    "end_turn",
                    "max_tokens",
                    "model_context_window_exceeded",
                    "stop_sequence",
                    "tool_use",
                ]
            },
            "stop_sequence": or_null(STRING),
            "usage": object_of(
                {
                    "input_tokens": INTEGER,
                    "output_tokens": INTEGER,
                    "output_tokens_details": object_of({"thinking_tokens": INTEGER}),
                },
                "output_tokens_details",
            ),
        }
    ),
}

_EVENTS: Schema = {
    "type": "string",
    "description": "Server-sent events, each called by its `type`, from message_start to message_stop.",
}

RESPONSES: dict[str, dict[str, Schema]] = {
    "/v1/messages": {"application/json": component("MessageAnswer"), "text/event-stream": _EVENTS},
    "/v1/messages/count_tokens": {"application/json": object_of({"input_tokens": INTEGER})},
}
