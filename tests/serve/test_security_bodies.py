"""Bodies made to break a server: whatever JSON comes, the answer is no 5xx, and nobody's server process ends."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.testclient import TestClient
from support import examples
from support.app_routes import routes_of
from support.error_forms import said
from support.fake_chat_model import FakeChatModel
from support.fake_encoder_model import IMAGES, TEXTS, FakeEncoderModel
from support.http_client import Response
from support.living_adapters import living

import ptune
from ptune_serve.access.auth import ApiKeys
from ptune_serve.adapters.routes import AddRequest, AliasRequest, LoadRequest, UnloadRequest
from ptune_serve.app import create_app, create_encoder_app
from ptune_serve.encoders.schemas import NOT_BUILT as ENCODER_NOT_BUILT
from ptune_serve.encoders.schemas import ClassifyRequest
from ptune_serve.openai.schemas import NOT_BUILT, StructuredOutputs
from ptune_serve.openapi import body_kind
from ptune_serve.service import Settings

USER = {"role": "user", "content": "hi"}
ODD_NUMBERS = [0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -0.0, 0.1, 1e-320]
ODD_TEXTS = [
    "",
    "\0",
    "\ud800",
    "a\udc00",
    "\u2028",
    "\U0010ffff",
    "../../etc/passwd",
    "{{7*7}}",
    "x" * 300,
    "NaN",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(ODD_NUMBERS)
    | st.sampled_from(ODD_TEXTS)
)
NAMES = sorted(
    {
        *("role", "content", "type", "text", "function", "name", "arguments", "image_url", "url", "schema"),
        *("json_schema", "properties", "$ref", "enum", "items", "share", "canary"),
        *(field.alias or name for name, field in StructuredOutputs.model_fields.items()),
    }
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=8,
)
MODELS = st.sampled_from(["base", "pirate", "sentiment", "nobody"])


def bodies(kinds: list[type[BaseModel]], also: dict[str, Any], **likely: Any) -> st.SearchStrategy[Any]:
    """JSON of any shape, and objects with an endpoint's own fields, most of them as they should be."""
    fields = sorted({name for kind in kinds for name in kind.model_fields} | set(also))
    asked = st.dictionaries(st.sampled_from(fields), JSON, max_size=4)
    return JSON | st.builds(lambda right, wrong: {**right, **wrong}, st.fixed_dictionaries(likely), asked)


CONTENT = st.sampled_from([USER, {"role": "system", "content": [{"type": "text", "text": "x"}]}])
SHORT = st.sampled_from([1, 2, 5])


def endpoints(app: Any, likely: dict[str, dict[str, Any]], also: dict[str, Any]) -> dict[str, Any]:
    """A strategy for each of an app's endpoints that read JSON, from the app's own list. likely: fields that make sense."""
    found = {}
    for route in routes_of(app):
        kind = body_kind(route.dependant)
        if kind is not None:
            found[route.path] = bodies([kind], also, model=MODELS, **likely.get(route.path, {}))
    return found


ENDPOINTS = endpoints(
    create_app(FakeChatModel()),
    {
        "/v1/chat/completions": {
            "max_tokens": SHORT,
            "messages": st.lists(CONTENT | JSON, min_size=1, max_size=3),
        },
        "/v1/completions": {"max_tokens": SHORT, "prompt": st.just("x") | JSON},
        "/v1/messages": {
            "max_tokens": SHORT,
            "messages": st.lists(CONTENT | JSON, min_size=1, max_size=3),
        },
        "/v1/messages/count_tokens": {"messages": st.lists(CONTENT | JSON, min_size=1, max_size=3)},
        "/v1/responses": {
            "max_output_tokens": SHORT,
            "input": st.just("x") | st.lists(CONTENT | JSON, min_size=1, max_size=3),
        },
        "/api/chat": {"messages": st.lists(CONTENT | JSON, min_size=1, max_size=3)},
        "/api/generate": {"prompt": st.just("x") | JSON},
        "/tokenize": {"prompt": st.just("x") | JSON},
        "/detokenize": {"tokens": st.just([65]) | JSON},
        "/v1/translate": {"max_tokens": SHORT, "text": st.just("x") | JSON},
    },
    NOT_BUILT,
)
ENCODERS = endpoints(
    create_encoder_app(FakeEncoderModel()),
    {"/v1/tag": {"input": st.just("x") | JSON}},
    ENCODER_NOT_BUILT,
) | {
    "/v1/classify": bodies(
        [ClassifyRequest], ENCODER_NOT_BUILT, model=MODELS, input=st.just("x") | st.lists(JSON, max_size=3)
    ),
}
ADMIN = {
    "/v1/adapters": bodies([AddRequest], {}, name=st.text(max_size=8)),
    "/v1/adapters/first/alias": bodies([AliasRequest], {}, alias=st.text(max_size=8)),
    "/v1/load_lora_adapter": bodies([LoadRequest], {}, lora_name=st.text(max_size=4), lora_path=st.text()),
    "/v1/unload_lora_adapter": bodies([UnloadRequest], {}, lora_name=st.text(max_size=8)),
}
FUZZ = examples.most(80, suppress_health_check=list(HealthCheck))


def client_of(app: Any) -> TestClient:
    return TestClient(app, raise_server_exceptions=False, headers={"content-type": "application/json"})


@pytest.fixture(scope="module")
def chat() -> TestClient:
    return client_of(create_app(FakeChatModel(), Settings(max_body_bytes=2**20)))


@pytest.fixture(scope="module")
def encoder() -> TestClient:
    return client_of(create_encoder_app(FakeEncoderModel({**TEXTS, **IMAGES})))


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory):
    there = living(tmp_path_factory.mktemp("living"))
    model = ptune.load(there.folder, threads=1, max_rows=4)
    yield client_of(create_app(model, Settings(adapters_api=True, adapter_root=there.outside)))
    model.close()


def is_answer(response: Response) -> None:
    """No 5xx, and what is no answer is an error object, inside streams too."""
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert said(response.json())
    else:
        assert '"server_error"' not in response.text


def sent(client: TestClient, path: str, body: Any) -> Response:
    """As JSON that may hold NaN, infinities, lone surrogates: Python writes what other clients cannot."""
    return client.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("path", ENDPOINTS)
@FUZZ
@given(st.data())
def test_any_json_to_a_chat_model(chat, path, data):
    is_answer(sent(chat, path, data.draw(ENDPOINTS[path])))


@pytest.mark.parametrize("path", ENCODERS)
@FUZZ
@given(st.data())
def test_any_json_to_an_encoder(encoder, path, data):
    is_answer(sent(encoder, path, data.draw(ENCODERS[path])))


@pytest.mark.parametrize("path", ADMIN)
@examples.most(40, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_json_to_the_adapters_api(admin, path, data):
    is_answer(sent(admin, path, data.draw(ADMIN[path])))


@pytest.mark.parametrize("path", [*ENDPOINTS, *ENCODERS])
@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes(chat, encoder, path, raw):
    is_answer((encoder if path in ENCODERS else chat).post(path, content=raw))


def with_field(name: str, raw: str) -> str:
    return f'{{"model": "base", "max_tokens": 2, "messages": [{json.dumps(USER)}], "{name}": {raw}}}'


DEEP = 100_000


@pytest.mark.parametrize(
    "raw",
    [
        "[" * DEEP,
        "[" * DEEP + "]" * DEEP,
        '{"a":' * DEEP + "1" + "}" * DEEP,
        '{"model": "base", "messages": ' + "[" * DEEP + "]" * DEEP + "}",
        with_field("tools", '[{"type": "function", "function": {"name": "f", "parameters": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}}]"),
        with_field("guided_json", '{"a":' * 5000 + "1" + "}" * 5000),
        with_field("guided_json", json.dumps('{"properties":{"a":' * 5000 + "{}" + "}}" * 5000)),
        with_field("guided_regex", json.dumps("(" * 2000 + "a" + ")" * 2000)),
        with_field("guided_regex", json.dumps("(a{1000}){1000}")),
        with_field("guided_regex", json.dumps("((a{100}){100}){100}")),
        with_field("seed", "9" * 5000),
        with_field("seed", "-" + "9" * 5000),
        with_field("temperature", "1e999999999"),
        with_field("max_tokens", "9" * 10_000),
        with_field("logit_bias", "{" + ", ".join(f'"{token}": 1' for token in range(20_000)) + "}"),
        with_field("stop", json.dumps(["x"] * 10_000)),
        with_field("stop", json.dumps("x" * 100_000)),
        with_field("n", "1000000"),
        with_field("top_logprobs", "1000000"),
        with_field("user", json.dumps("x" * 100_000)),
        with_field("model", json.dumps("x" * 100_000)),
        with_field("messages", json.dumps([USER] * 10_000)),
        with_field("messages", json.dumps([{"role": "user", "content": [{"type": "text", "text": ""}] * 50_000}])),
        with_field("tools", json.dumps([{"type": "function", "function": {"name": "f"}}] * 10_000)),
        with_field("guided_choice", json.dumps(["x"] * 10_000)),
        with_field("guided_choice", json.dumps(["x" * 300_000])),
        "\ufeff" + with_field("seed", "1"),
        with_field("seed", "1") + with_field("seed", "2"),
        with_field("seed", "1") + "\0",
        with_field("seed", "NaN"),
        with_field("min_p", "-Infinity"),
        with_field("seed", "01"),
        with_field("seed", "1,"),
        with_field("user", '"\\ud83d"'),
    ],
    ids=lambda raw: f"{raw[:90]}".replace("\0", "0"),
)  # fmt: skip
def test_bodies_that_are_too_much(chat, raw):
    response = chat.post("/v1/chat/completions", content=raw.encode())
    is_answer(response)
    assert response.status_code == (413 if len(raw.encode()) > 2**20 else 400), response.text[:200]


def test_a_name_that_nothing_reads_may_be_any_text(chat):
    response = chat.post("/v1/chat/completions", content=with_field("user", '"\\u0000"').encode())
    assert response.status_code == 200


def test_of_a_key_that_comes_twice_the_last_counts(chat):
    """As with most readers of JSON. Nothing before the server decides by a body, so nothing can be told two stories."""
    raw = with_field("messages", json.dumps([{"role": "user", "content": "second"}]))
    answer = chat.post(
        "/v1/completions", content=b'{"model": "base", "max_tokens": 50, "prompt": "a", "prompt": "second"}'
    ).json()
    assert "second" in answer["choices"][0]["text"]
    assert "second" in chat.post("/v1/chat/completions", content=raw.replace('"max_tokens": 2, ', "")).text


# Templates.


@pytest.mark.parametrize(
    "text", ["{{ 7 * 7 }}", "{% for i in range(9) %}x{% endfor %}", "{# x #}", "${7*7}", "<%= 7*7 %>"]
)
def test_what_a_client_writes_is_never_a_template(admin, text):
    """Over a real codec: the prompt's tokens spell the text as it was sent, wherever it was put."""
    messages = [{"role": role, "content": text} for role in ("system", "user", "assistant", "user")]
    tokens = sent(admin, "/tokenize", {"messages": messages}).json()["tokens"]
    prompt = sent(admin, "/detokenize", {"tokens": tokens}).json()["prompt"]
    assert prompt.count(text) == 4
    assert "49" not in prompt


@pytest.mark.parametrize(
    "name", ["chat_template", "chat_template_kwargs", "documents", "add_generation_prompt"]
)
def test_a_request_brings_no_template_along(chat, name):
    """vLLM and Megatron took one from requests: a loop in it holds up everybody."""
    evil = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    for value in (evil, {"chat_template": evil}):
        tried = chat.post("/v1/chat/completions", content=with_field(name, json.dumps(value)))
        assert tried.status_code == 400
        assert tried.json()["error"]["param"] == name


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest/meta-data", "https://x/a.png", "file:///etc/passwd", "ftp://x", "//x", "gopher://x",
     "data:text/html;base64,AA==", "data:image/png,AA", "DATA:IMAGE/SVG+XML;base64,AA==", "data:image/png;base64,!!"],
)  # fmt: skip
def test_no_url_is_followed(encoder, chat, url, monkeypatch):
    """Neither the network nor a file is touched: a connection would raise."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was made"))
    image = {"type": "image_url", "image_url": {"url": url}}
    is_answer(sent(encoder, "/v1/classify", {"model": next(iter(IMAGES)), "input": [image]}))
    refused = sent(
        chat, "/v1/chat/completions", {"model": "base", "messages": [{"role": "user", "content": [image]}]}
    )
    assert refused.status_code == 400


# Paths.


@pytest.mark.parametrize(
    "name", ["..", "../first", "..%2ffirst", "%2e%2e", "%2fetc%2fpasswd", "a%00b", "a%0d%0aX: 1", "%ff", "x" * 5000]
)  # fmt: skip
def test_no_name_in_a_path_leads_elsewhere(admin, name):
    for method, path in (
        ("DELETE", f"/v1/adapters/{name}"),
        ("POST", f"/v1/adapters/{name}/alias"),
        ("POST", f"/v1/aliases/{name}/rollback"),
        ("DELETE", f"/v1/aliases/{name}"),
        ("GET", f"/v1/models/{name}"),
    ):
        response = admin.request(method, path, content=b'{"alias": "x"}')
        assert response.status_code in (400, 404, 405, 409), (method, path, response.text)
        assert "passwd" not in response.text or "etc/passwd" in name.replace("%2f", "/")


# The log.


def test_no_prompt_and_no_key_is_logged(caplog):
    """At the most talkative level, whatever goes wrong."""
    prompt, key, guess = "Zaphod-prompt-4711", "Trillian-key-4711", "Marvin-guess-4711"
    model = FakeChatModel()
    client = client_of(create_app(model, Settings(api_keys=ApiKeys((key,)), adapters_api=True)))
    caplog.set_level(logging.DEBUG)
    for failure in (None, "submit", "step"):
        model.engine.failure = failure
        for secret in (key, guess):
            client.headers["authorization"] = f"Bearer {secret}"
            for stream in (True, False):
                body = {"model": "base", "messages": [{"role": "user", "content": prompt}], "stream": stream}
                sent(client, "/v1/chat/completions", body)
            sent(client, "/v1/chat/completions", {"model": prompt, "messages": [{"role": prompt}]})
            sent(client, "/v1/completions", {"model": "base", "prompt": prompt, "guided_regex": f"({prompt}"})
            sent(client, "/v1/adapters", {"name": prompt, "path": prompt})
            client.get(f"/v1/models/{prompt}", params={"api_key": key})
    own = [
        record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "asyncio"))
    ]
    assert any("ZeroDivisionError" in record.getMessage() for record in own)
    for record in own:
        for text in (record.getMessage(), str(vars(record))):
            for secret in (prompt, key, guess, base64.b64encode(key.encode()).decode()):
                assert secret not in text, record
