"""GET /openapi.json, and schemathesis, which makes up requests from it: none may end in a 5xx, or hang."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import DEFAULT_MAX_STREAM_EVENTS
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.byte_codec import CONTEXT
from support.fake_chat_model import ADAPTERS, FakeChatModel, serving

from ptune_serve.app import create_app

APP = create_app(FakeChatModel())
SCHEMA = schemathesis.openapi.from_dict(APP.state.document())
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


ENDS = re.compile(
    r"(data: \[DONE\]|event: (message_stop|response\.completed|response\.incomplete)\ndata: [^\n]*)\n\n$"
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(APP) as url:
        yield url


@SCHEMA.parametrize()
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_made_up_requests(case: Case[Any], url: str) -> None:
    _address(case)
    response = case.call(base_url=url, timeout=20)
    if response.headers["content-type"][0].startswith("text/event-stream"):
        cut = response.text.count("\n\n") >= DEFAULT_MAX_STREAM_EVENTS  # schemathesis reads so many events
        assert cut or ENDS.search(response.text) or '"error":{' in response.text
        assert '"server_error"' not in response.text
        assert '"api_error"' not in response.text
    elif response.headers["content-type"][0].startswith("application/x-ndjson"):
        last = json.loads(response.text.splitlines()[-1])
        assert last.get("done") is True or "the engine" not in last["error"]
    else:
        case.validate_response(response, checks=CHECKS)


def _address(case: Case[Any]) -> None:
    """To a model that there is, and answers that fit: made-up ones are refused before anything else is looked at."""
    body: Any = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = ["base", *ADAPTERS][len(body["model"]) % 3]
        for name in ("max_tokens", "max_completion_tokens"):
            if type(body.get(name)) is int and body[name] > CONTEXT:
                body[name] %= CONTEXT // 2


def test_the_document_names_what_is_there(served: Any) -> None:
    document = served.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    paths = {path: set(operations) for path, operations in document["paths"].items()}
    assert paths == {
        "/health": {"get"}, "/ready": {"get"}, "/metrics": {"get"}, "/v1/models": {"get"}, "/v1/models/{model}": {"get"},
        "/v1/chat/completions": {"post"}, "/v1/completions": {"post"}, "/tokenize": {"post"}, "/detokenize": {"post"},
        "/v1/messages": {"post"}, "/v1/messages/count_tokens": {"post"}, "/v1/responses": {"post"},
        "/api/chat": {"post"}, "/api/generate": {"post"}, "/api/show": {"post"}, "/api/tags": {"get"}, "/api/version": {"get"},
        "/v1/responses/{response_id}": {"get", "delete"}, "/v1/responses/{response_id}/cancel": {"post"},
        "/v1/files": {"get", "post"}, "/v1/files/{file_id}": {"get", "delete"}, "/v1/files/{file_id}/content": {"get"},
        "/v1/batches": {"get", "post"}, "/v1/batches/{batch_id}": {"get"}, "/v1/batches/{batch_id}/cancel": {"post"},
        "/tokenizer_info": {"get"}, "/v1/translate": {"post"}, "/v1/feedback": {"post"},
    }  # fmt: skip
    chat = document["components"]["schemas"]["ChatRequest"]
    assert {"model", "messages", "tools", "response_format", "n"} <= set(chat["properties"])
    assert set(chat["required"]) == {"model", "messages"}
    used = set(_references(document))
    assert used <= set(document["components"]["schemas"])
    assert {"Tool", "ToolCall", "Error", "ChatCompletion"} <= used


def _references(value: Any) -> Iterator[str]:
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(inner)
    if isinstance(value, dict) and isinstance(value.get("$ref"), str):
        yield value["$ref"].removeprefix("#/components/schemas/")


def test_no_page_loads_scripts(served: Any) -> None:
    for path in ("/docs", "/redoc"):
        assert served.http.get(path).status_code == 404
    assert "<script" not in json.dumps(served.http.get("/openapi.json").json())
