"""JSON schemas of the responses of the Open Inference Protocol, for /openapi.json."""

from __future__ import annotations

from ..fields.json_schema import BOOLEAN, INTEGER, NUMBER, STRING, Schema, list_of, object_of

_described = object_of({"name": STRING, "datatype": {"enum": ["BYTES", "FP32"]}, "shape": list_of(INTEGER)})
_model = object_of(
    {
        "name": STRING,
        "versions": list_of(STRING),
        "platform": STRING,
        "inputs": list_of(_described),
        "outputs": list_of(_described),
    }
)
_tensor = object_of(
    {
        "name": STRING,
        "datatype": {"enum": ["BYTES", "FP32"]},
        "shape": list_of(INTEGER),
        "data": list_of({"anyOf": [NUMBER, STRING]}),
    }
)
_answer = object_of(
    {
        "model_name": STRING,
        "model_version": STRING,
        "id": STRING,
        "parameters": object_of({"truncated": list_of(BOOLEAN)}),
        "outputs": list_of(_tensor),
    },
    "id",
    "parameters",
)
_ready = object_of({"name": STRING, "ready": BOOLEAN})

_SCHEMAS: dict[str, Schema] = {
    "/v2": object_of({"name": STRING, "version": STRING, "extensions": list_of(STRING)}),
    "/v2/health/live": object_of({"live": BOOLEAN}),
    "/v2/health/ready": object_of({"ready": BOOLEAN}),
    **{
        f"/v2/models/{{model}}{version}{path}": schema
        for version in ("", "/versions/{version}")
        for path, schema in (("", _model), ("/ready", _ready), ("/infer", _answer))
    },
}
RESPONSES = {path: {"application/json": schema} for path, schema in _SCHEMAS.items()}
