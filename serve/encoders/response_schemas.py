"""JSON schemas of the responses of encoders, and of the API for adapters, for /openapi.json."""

from __future__ import annotations

from ..fields.json_schema import INTEGER, NUMBER, STRING, Schema, component, list_of, object_of, or_null

BOOLEAN: Schema = {"type": "boolean"}
_read = object_of({"prompt_tokens": INTEGER, "total_tokens": INTEGER})


def _answers(**entry: Schema) -> Schema:
    """vLLM's list with one entry for each input."""
    return object_of(
        {
            "id": STRING,
            "object": {"const": "list"},
            "created": INTEGER,
            "model": STRING,
            "data": list_of(
                object_of({"index": INTEGER, "truncated": BOOLEAN, **entry}, "truncated", "labels")
            ),
            "usage": component("Usage"),
        }
    )


_entity = object_of({"label": STRING, "begin": INTEGER, "end": INTEGER, "text": STRING, "score": NUMBER})
_reason = object_of({"item": or_null(STRING), "title": STRING, "score": NUMBER})
_item = object_of({"item": STRING, "title": STRING})
_recommended = object_of({"item": STRING, "title": STRING, "score": NUMBER, "reasons": list_of(_reason)})
_embedding = object_of(
    {
        "object": {"const": "embedding"},
        "index": INTEGER,
        "embedding": {"anyOf": [list_of(NUMBER), STRING]},  # base64, where that was asked for
    }
)
_ranked = object_of(
    {"index": INTEGER, "relevance_score": NUMBER, "document": object_of({"text": STRING})}, "document"
)
_adapter = object_of(
    {
        "object": {"const": "adapter"},
        "name": STRING,
        "hash": or_null(STRING),
        "task": STRING,
        "rank": INTEGER,
        "bytes": INTEGER,
        "parity": or_null(STRING),
        "base": STRING,
        "loaded": BOOLEAN,
        "added": or_null(STRING),
        "aliases": list_of(STRING),
    }
)
_alias = object_of({"object": {"const": "alias"}, "alias": STRING, "name": STRING})
_adapters = object_of({"object": {"const": "list"}, "data": list_of(_adapter)})

_SCHEMAS: dict[str, Schema] = {
    "/v1/classify": _answers(
        label=STRING,
        labels=list_of(STRING),
        probs=list_of(NUMBER),
        num_classes=INTEGER,
        scores={"type": "object", "additionalProperties": NUMBER},
    ),
    "/v1/tag": _answers(entities=list_of(_entity)),
    "/v1/embeddings": object_of(
        {"object": {"const": "list"}, "data": list_of(_embedding), "model": STRING, "usage": _read}
    ),
    "/v1/rerank": object_of(
        {
            "id": STRING,
            "object": {"const": "list"},
            "model": STRING,
            "results": list_of(_ranked),
            "usage": _read,
        }
    ),
    "/v1/recommend": object_of(
        {
            "id": STRING,
            "object": {"const": "list"},
            "model": STRING,
            "data": list_of(_recommended),
            "usage": _read,
        }
    ),
    "/v1/recommend/items": object_of({"object": {"const": "list"}, "model": STRING, "data": list_of(_item)}),
    "/v1/adapters": {"anyOf": [_adapter, _adapters]},  # one that was added, or all
    "/v1/adapters/{name}": object_of({"object": {"const": "adapter"}, "name": STRING, "deleted": BOOLEAN}),
    "/v1/adapters/{name}/alias": _alias,
    "/v1/aliases": object_of({"object": {"const": "list"}, "data": list_of(_alias)}),
    "/v1/aliases/{alias}/rollback": _alias,
    "/v1/aliases/{alias}": object_of({"object": {"const": "alias"}, "alias": STRING, "deleted": BOOLEAN}),
}
RESPONSES: dict[str, dict[str, Schema]] = {
    path: {"application/json": schema} for path, schema in _SCHEMAS.items()
}
"""By path and media type."""
