"""JSON schemas of the responses, for /openapi.json: OpenAI's formats, with the additions of vLLM and this server."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(properties: dict[str, Schema], *optional: str) -> Schema:
    """An object whose properties are required, except the optional ones; it may have more."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _component(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
TOKENS = _list(INTEGER)
FINISH: Schema = {"enum": ["stop", "length", "tool_calls"]}
HEAD = {"id": STRING, "created": INTEGER, "model": STRING, "system_fingerprint": STRING}

ERROR = _component("Error")

_scored = {"token": STRING, "logprob": NUMBER, "bytes": TOKENS}
_called = _object({"name": STRING, "arguments": STRING}, "name")
_call = {"id": STRING, "type": {"const": "function"}, "function": _called}
_message = {
    "role": {"const": "assistant"},
    "content": _or_null(STRING),
    "refusal": {"type": "null"},
    "reasoning_content": _or_null(STRING),
    "tool_calls": _list(_object(_call)),
}
_delta = {
    "role": {"const": "assistant"},
    "content": STRING,
    "reasoning_content": STRING,
    "tool_calls": _list(_object({"index": INTEGER, **_call}, "id", "type")),
}
_per_token = {"index": INTEGER, "logprobs": _or_null(_component("ChatLogprobs")), "token_ids": TOKENS}
_completion_logprobs = _object(
    {
        "tokens": _list(STRING),
        "token_logprobs": _list(_or_null(NUMBER)),
        "top_logprobs": _list(_or_null({"type": "object", "additionalProperties": NUMBER})),
        "text_offset": TOKENS,
    }
)

COMPONENTS: dict[str, Schema] = {
    "Error": _object(
        {
            "error": _object(
                {"message": STRING, "type": STRING, "param": _or_null(STRING), "code": _or_null(STRING)}
            )
        }
    ),
    "Usage": _object(
        {
            "prompt_tokens": INTEGER,
            "completion_tokens": INTEGER,
            "total_tokens": INTEGER,
            "completion_tokens_details": _object({"reasoning_tokens": INTEGER}),
        },
        "completion_tokens_details",
    ),
    "ChatLogprobs": _object(
        {
            "content": _list(_object({**_scored, "top_logprobs": _list(_object(_scored))})),
            "refusal": {"type": "null"},
        }
    ),
    "ChatCompletion": _object(
        {
            **HEAD,
            "object": {"const": "chat.completion"},
            "choices": _list(
                _object(
                    {
                        **_per_token,
                        "message": _object(_message, "reasoning_content", "tool_calls"),
                        "finish_reason": FINISH,
                    },
                    "token_ids",
                )
            ),
            "usage": _component("Usage"),
            "prompt_token_ids": TOKENS,
        },
        "prompt_token_ids",
    ),
    "ChatCompletionChunk": _object(
        {
            **HEAD,
            "object": {"const": "chat.completion.chunk"},
            "choices": _list(
                _object(
                    {**_per_token, "delta": _object(_delta, *_delta), "finish_reason": _or_null(FINISH)},
                    "token_ids",
                )
            ),
            "usage": _or_null(_component("Usage")),
            "prompt_token_ids": TOKENS,
        },
        "usage",
        "prompt_token_ids",
    ),
    "Completion": _object(
        {
            **HEAD,
            "object": {"const": "text_completion"},
            "choices": _list(
                _object(
                    {
                        "index": INTEGER,
                        "text": STRING,
                        "logprobs": _or_null(_completion_logprobs),
                        "finish_reason": _or_null(FINISH),
                        "token_ids": TOKENS,
                        "prompt_token_ids": TOKENS,
                    },
                    "token_ids",
                    "prompt_token_ids",
                )
            ),
            "usage": _or_null(_component("Usage")),
        },
        "usage",
    ),
    "Model": _object({"id": STRING, "object": {"const": "model"}, "created": INTEGER, "owned_by": STRING}),
}

_EVENTS: Schema = {
    "type": "string",
    "description": "Server-sent events: `data: ` and a chunk of JSON in each, `data: [DONE]` at the end.",
}

RESPONSES: dict[str, dict[str, Schema]] = {
    "/health": {"application/json": _object({"status": STRING})},
    "/ready": {"application/json": _object({"status": STRING})},
    "/metrics": {"text/plain": STRING},
    "/v1/models": {
        "application/json": _object({"object": {"const": "list"}, "data": _list(_component("Model"))})
    },
    "/v1/models/{model}": {"application/json": _component("Model")},
    "/v1/chat/completions": {
        "application/json": _component("ChatCompletion"),
        "text/event-stream": _EVENTS,
    },
    "/v1/completions": {"application/json": _component("Completion"), "text/event-stream": _EVENTS},
    "/v1/translate": {
        "application/json": _object(
            {
                **HEAD,
                "object": {"const": "list"},
                "data": _list(
                    _object(
                        {"index": INTEGER, "text": STRING, "finish_reason": FINISH, "token_ids": TOKENS},
                        "token_ids",
                    )
                ),
                "usage": _component("Usage"),
            }
        )
    },
    "/tokenize": {
        "application/json": _object(
            {"count": INTEGER, "max_model_len": INTEGER, "tokens": TOKENS, "token_strs": _list(STRING)},
            "token_strs",
        )
    },
    "/tokenizer_info": {
        "application/json": _object(
            {
                "tokenizer_class": STRING,
                "model_max_length": INTEGER,
                "eos_token": _or_null(STRING),
                "chat_template": _or_null(STRING),
            }
        )
    },
    "/v1/load_lora_adapter": {"text/plain": STRING},
    "/v1/unload_lora_adapter": {"text/plain": STRING},
    "/detokenize": {"application/json": _object({"prompt": STRING})},
}
"""By path and media type."""
