"""JSON schemas of the responses, for /openapi.json: OpenAI's formats, with the additions of vLLM and this server."""

from __future__ import annotations

from .anthropic.response_schemas import COMPONENTS as OF_MESSAGES
from .anthropic.response_schemas import RESPONSES as MESSAGES
from .batches.response_schemas import COMPONENTS as OF_BATCHES
from .batches.response_schemas import RESPONSES as BATCHES
from .bundles.response_schemas import RESPONSES as OF_BUNDLES
from .encoders.response_schemas import RESPONSES as OF_ENCODERS
from .fields.json_schema import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    STRING,
    Schema,
    component,
    list_of,
    object_of,
    or_null,
)
from .ollama.response_schemas import COMPONENTS as OF_OLLAMA
from .ollama.response_schemas import RESPONSES as OLLAMA
from .open_inference.response_schemas import RESPONSES as OPEN_INFERENCE
from .responses.response_schemas import COMPONENTS as OF_RESPONSES_API
from .responses.response_schemas import RESPONSES as RESPONSES_API

TOKENS = list_of(INTEGER)
FINISH: Schema = {"enum": ["stop", "length", "tool_calls"]}
HEAD = {"id": STRING, "created": INTEGER, "model": STRING, "system_fingerprint": STRING}

ERRORS = {
    "/v1/messages": component("MessagesError"),
    "/api": component("PlainError"),
    "/v2": component("PlainError"),
}
"""By path, which stands for all below it; all others: `ERROR`."""
ERROR = component("Error")

_scored = {"token": STRING, "logprob": NUMBER, "bytes": TOKENS}
_called = object_of({"name": STRING, "arguments": STRING}, "name")
_call = {"id": STRING, "type": {"const": "function"}, "function": _called}
_message = {
    "role": {"const": "assistant"},
    "content": or_null(STRING),
    "refusal": {"type": "null"},
    "reasoning_content": or_null(STRING),
    "tool_calls": list_of(object_of(_call)),
}
_delta = {
    "role": {"const": "assistant"},
    "content": STRING,
    "reasoning_content": STRING,
    "tool_calls": list_of(object_of({"index": INTEGER, **_call}, "id", "type")),
}
_per_token = {"index": INTEGER, "logprobs": or_null(component("ChatLogprobs")), "token_ids": TOKENS}
_completion_logprobs = object_of(
    {
        "tokens": list_of(STRING),
        "token_logprobs": list_of(or_null(NUMBER)),
        "top_logprobs": list_of(or_null({"type": "object", "additionalProperties": NUMBER})),
        "text_offset": TOKENS,
    }
)

_ranked = {"logprob": NUMBER, "rank": INTEGER, "decoded_token": STRING}
_prompt_logprobs = list_of(or_null({"type": "object", "additionalProperties": object_of(_ranked)}))

COMPONENTS: dict[str, Schema] = {
    "Error": object_of(
        {
            "error": object_of(
                {"message": STRING, "type": STRING, "param": or_null(STRING), "code": or_null(STRING)}
            )
        }
    ),
    "Usage": object_of(
        {
            "prompt_tokens": INTEGER,
            "completion_tokens": INTEGER,
            "total_tokens": INTEGER,
            "prompt_tokens_details": object_of({"cached_tokens": INTEGER}),
            "completion_tokens_details": object_of({"reasoning_tokens": INTEGER}),
        },
        "prompt_tokens_details",
        "completion_tokens_details",
    ),
    "ChatLogprobs": object_of(
        {
            "content": list_of(object_of({**_scored, "top_logprobs": list_of(object_of(_scored))})),
            "refusal": {"type": "null"},
        }
    ),
    "ChatCompletion": object_of(
        {
            **HEAD,
            "object": {"const": "chat.completion"},
            "choices": list_of(
                object_of(
                    {
                        **_per_token,
                        "message": object_of(_message, "reasoning_content", "tool_calls"),
                        "finish_reason": FINISH,
                    },
                    "token_ids",
                )
            ),
            "usage": component("Usage"),
            "prompt_token_ids": TOKENS,
            "prompt_logprobs": _prompt_logprobs,
        },
        "prompt_token_ids",
        "prompt_logprobs",
    ),
    "ChatCompletionChunk": object_of(
        {
            **HEAD,
            "object": {"const": "chat.completion.chunk"},
            "choices": list_of(
                object_of(
                    {**_per_token, "delta": object_of(_delta, *_delta), "finish_reason": or_null(FINISH)},
                    "token_ids",
                )
            ),
            "usage": or_null(component("Usage")),
            "prompt_token_ids": TOKENS,
        },
        "usage",
        "prompt_token_ids",
    ),
    "Completion": object_of(
        {
            **HEAD,
            "object": {"const": "text_completion"},
            "choices": list_of(
                object_of(
                    {
                        "index": INTEGER,
                        "text": STRING,
                        "logprobs": or_null(_completion_logprobs),
                        "finish_reason": or_null(FINISH),
                        "token_ids": TOKENS,
                        "prompt_token_ids": TOKENS,
                        "prompt_logprobs": _prompt_logprobs,
                    },
                    "token_ids",
                    "prompt_token_ids",
                    "prompt_logprobs",
                )
            ),
            "usage": or_null(component("Usage")),
        },
        "usage",
    ),
    **OF_BATCHES,
    **OF_MESSAGES,
    **OF_OLLAMA,
    **OF_RESPONSES_API,
    "PlainError": object_of({"error": STRING}),
    "Model": object_of({"id": STRING, "object": {"const": "model"}, "created": INTEGER, "owned_by": STRING}),
}

_EVENTS: Schema = {
    "type": "string",
    "description": "Server-sent events: `data: ` and a chunk of JSON in each, `data: [DONE]` at the end.",
}

RESPONSES: dict[str, dict[str, Schema]] = {
    "/health": {"application/json": object_of({"status": STRING})},
    "/ready": {"application/json": object_of({"status": STRING})},
    "/metrics": {"text/plain": STRING},
    "/v1/models": {
        "application/json": object_of({"object": {"const": "list"}, "data": list_of(component("Model"))})
    },
    "/v1/models/{model}": {"application/json": component("Model")},
    "/v1/chat/completions": {
        "application/json": component("ChatCompletion"),
        "text/event-stream": _EVENTS,
    },
    "/v1/completions": {"application/json": component("Completion"), "text/event-stream": _EVENTS},
    "/v1/translate": {
        "application/json": object_of(
            {
                **HEAD,
                "object": {"const": "list"},
                "data": list_of(
                    object_of(
                        {"index": INTEGER, "text": STRING, "finish_reason": FINISH, "token_ids": TOKENS},
                        "token_ids",
                    )
                ),
                "usage": component("Usage"),
            }
        )
    },
    "/tokenize": {
        "application/json": object_of(
            {"count": INTEGER, "max_model_len": INTEGER, "tokens": TOKENS, "token_strs": list_of(STRING)},
            "token_strs",
        )
    },
    "/tokenizer_info": {
        "application/json": object_of(
            {
                "tokenizer_class": STRING,
                "model_max_length": INTEGER,
                "eos_token": or_null(STRING),
                "chat_template": or_null(STRING),
            }
        )
    },
    "/v1/feedback": {
        "application/json": object_of({"object": {"const": "feedback"}, "id": STRING, "counted": BOOLEAN})
    },
    "/v1/load_lora_adapter": {"text/plain": STRING},
    "/v1/unload_lora_adapter": {"text/plain": STRING},
    "/detokenize": {"application/json": object_of({"prompt": STRING})},
    **BATCHES,
    **MESSAGES,
    **OLLAMA,
    **OPEN_INFERENCE,
    **RESPONSES_API,
    **OF_BUNDLES,
    **OF_ENCODERS,
}
"""By path and media type."""
