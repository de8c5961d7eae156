"""JSON schemas of what a server with several bundles says of them, for /openapi.json."""

from __future__ import annotations

from ..fields.json_schema import INTEGER, STRING, Schema, list_of, object_of

_state = {"name": STRING, "state": {"enum": ["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]}}
_indexed = object_of({**_state, "version": STRING, "reason": STRING})
_running = object_of(
    {
        "name": STRING,
        "model": STRING,
        "size": INTEGER,
        "size_vram": INTEGER,
        "digest": STRING,
        "details": {"type": "object"},
        "expires_at": STRING,
    }
)
_SCHEMAS: dict[str, Schema] = {
    "/api/ps": object_of({"models": list_of(_running)}),
    "/v2/repository/index": list_of(_indexed),
    "/v2/repository/models/{bundle}/load": object_of(_state),
    "/v2/repository/models/{bundle}/unload": object_of(_state),
}
RESPONSES = {path: {"application/json": schema} for path, schema in _SCHEMAS.items()}
