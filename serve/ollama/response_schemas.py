"""JSON schemas of the responses of Ollama's API, for /openapi.json."""

from __future__ import annotations

from ..fields.json_schema import INTEGER, NUMBER, STRING, Schema, component, list_of, object_of, or_null

_details = object_of({"parent_model": STRING, "format": STRING, "family": STRING})
_call = object_of({"id": STRING, "function": object_of({"name": STRING, "arguments": {"type": "object"}})})
_said = {"thinking": STRING, "tool_calls": list_of(_call)}
_message = object_of({"role": {"const": "assistant"}, "content": STRING, **_said}, *_said)
_end = {
    "total_duration": INTEGER,
    "load_duration": INTEGER,
    "prompt_eval_count": INTEGER,
    "prompt_eval_duration": INTEGER,
    "eval_count": INTEGER,
    "eval_duration": INTEGER,
}
_head = {
    "model": STRING,
    "created_at": STRING,
    "done": {"type": "boolean"},
    "done_reason": {"enum": ["stop", "length", "load"]},
    **_end,
}
_optional = ("done_reason", *_end)

COMPONENTS: dict[str, Schema] = {
    "OllamaChat": object_of({**_head, "message": _message}, *_optional),
    "OllamaGeneration": object_of({**_head, **_said, "response": STRING}, *_optional, *_said),
}


def _lines(name: str) -> dict[str, Schema]:
    """Whole, and as a stream of one such object a line."""
    described: Schema = {"type": "string", "description": f"One {name} a line; the last has `done: true`."}
    return {"application/json": component(name), "application/x-ndjson": described}


RESPONSES: dict[str, dict[str, Schema]] = {
    "/api/version": {"application/json": object_of({"version": STRING, "ptune": STRING})},
    "/api/tags": {
        "application/json": object_of(
            {
                "models": list_of(
                    object_of(
                        {
                            "name": STRING,
                            "model": STRING,
                            "digest": STRING,
                            "size": INTEGER,
                            "details": _details,
                        }
                    )
                )
            }
        )
    },
    "/api/show": {
        "application/json": object_of(
            {
                "template": STRING,
                "details": _details,
                "model_info": object_of({"ptune.context_length": or_null(INTEGER)}),
                "capabilities": list_of(STRING),
            }
        )
    },
    "/api/chat": _lines("OllamaChat"),
    "/api/generate": _lines("OllamaGeneration"),
    "/api/embed": {
        "application/json": object_of(
            {"model": STRING, "embeddings": list_of(list_of(NUMBER)), "prompt_eval_count": INTEGER}
        )
    },
}
