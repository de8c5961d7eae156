"""What cannot be served is refused in one error object, with a status of 4xx, and the next request is served."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.fake_chat_model import wait_until

from ptune.errors import RequestError
from ptune_serve.http.errors import invalid
from ptune_serve.openai.schemas import NOT_BUILT, ChatRequest, CompletionRequest

USER = {"role": "user", "content": "hi"}
CALL = {"id": "call1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "now"}}


def refusal(response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return error


def post(served, body: bytes, path: str = "/v1/chat/completions", content_type: str = "application/json"):
    return served.http.post(path, content=body, headers={"content-type": content_type})


def with_content(raw: bytes) -> bytes:
    return b'{"model":"base","messages":[{"role":"user","content":' + raw + b"}]}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{'model': 'base'}",
        with_content(b'"\xff\xfe"'),
        with_content(b'"\\ud800"'),
        with_content(b'"\\udc00\\ud800"'),
        with_content(b'"\\u0000"'),
        with_content(b'"a\0b"'),
        with_content(b"5"),
        with_content(b"null"),
        with_content(b"[" * 50_000),
        b'{"a":' * 15_000,
        b'{"model":"base","messages":[' + b"[" * 100 + b"]" * 100 + b"]}",
        json.dumps({"model": "base", "messages": [USER]}).encode("utf-16"),
        b'{"model":"base","temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"base","temperature":1e999,"messages":[{"role":"user","content":"x"}]}',
    ],
    ids=lambda body: repr(body[:48]),
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_bodies_that_are_no_request(served, body, path):
    refusal(post(served, body, path))
    served.chat().raise_for_status()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "hot"),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("frequency_penalty", 3),
        ("presence_penalty", -3),
        ("seed", 1.5),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("max_tokens", "4"),
        ("max_tokens", 10**30),
        ("stream", "yes"),
        ("stop", 5),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("logprobs", 1),
        ("top_logprobs", 21),
        ("top_logprobs", 3),
        ("stream_options", {"include_usage": True}),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"5": 101}),
        ("messages", []),
        ("messages", "hi"),
        ("messages", {}),
        ("messages", [USER] * 5000),
        ("messages", ["hi"]),
        ("messages", [{"role": "wizard", "content": "hi"}]),
        ("messages", [{"role": "tool", "content": "hi"}]),
        ("messages", [{"role": "tool", "tool_call_id": "a"}]),
        ("messages", [{**USER, "tool_call_id": "a"}]),
        ("messages", [{**USER, "tool_calls": [CALL]}]),
        ("messages", [USER, {"role": "assistant"}]),
        ("messages", [USER, {"role": "assistant", "tool_calls": []}]),
        ("messages", [USER, {"role": "assistant", "tool_calls": ["call"]}]),
        ("messages", [USER, {"role": "assistant", "tool_calls": [{**CALL, "id": ""}]}]),
        ("messages", [USER, {"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]),
        ("messages", [USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {}}]}]),
        ("n", 0),
        ("n", 129),
        ("n", "2"),
        ("best_of", 2),
        ("tools", "all"),
        ("tools", [TOOL] * 129),
        ("tools", [TOOL, TOOL]),
        ("tools", [{**TOOL, "type": "custom"}]),
        ("tools", [{"type": "function", "function": {"name": "with space"}}]),
        ("tools", [{"type": "function", "function": {"name": "x", "parameters": "none"}}]),
        ("tools", [{"type": "function", "function": {"name": "x", "strict": "yes"}}]),
        ("tool_choice", "required"),
        ("tool_choice", "any"),
        ("tool_choice", {"type": "function"}),
        ("tool_choice", {"type": "function", "function": {"name": "nobody"}}),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
        ("parallel_tool_calls", "no"),
        ("response_format", "json"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "y"}}}),
        ("guided_json", "{"),
        ("guided_json", "[]"),
        ("guided_json", 5),
        ("guided_regex", "("),
        ("guided_regex", "a" * 5000),
        ("guided_regex", "(?<=a)b"),
        ("guided_choice", []),
        ("guided_choice", [""]),
        ("guided_choice", "yes"),
        ("structured_outputs", {"structural_tag": "x"}),
        ("response_format", {"type": "structural_tag"}),
        ("response_format", {"type": "structural_tag", "format": {"type": "grammar", "grammar": "x"}}),
        ("response_format", {"type": "json_object", "format": {}}),
        ("structured_outputs", {"choice": []}),
        ("structured_outputs", {"choice": ["a"], "regex": "a"}),
        ("messages", [{"content": "hi"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages", [{"role": "user", "content": ["hi"]}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": "a\0b"}]}]),
        ("messages", [{"role": "user", "content": "hi", "name": 5}]),
        ("messages", [{"role": "user", "content": "hi", "name": "a\0b"}]),
    ],
)
def test_a_bad_field_is_named(served, field, value):
    body = {"model": "base", "messages": [USER], field: value}
    error = refusal(served.http.post("/v1/chat/completions", json=body))
    assert error["param"].startswith(field)
    assert field in error["message"]
    assert error["type"] == "invalid_request_error"


def test_what_the_template_refuses_is_said_in_its_words(served):
    messages = [{"role": "assistant", "content": "the template refuses this"}]
    error = refusal(served.http.post("/v1/chat/completions", json={"model": "base", "messages": messages}))
    assert (error["param"], error["message"]) == (
        "messages", "a conversation must not begin with the assistant",
    )  # fmt: skip


@pytest.mark.parametrize(
    "prompt", [[], [[]], "", [""], [1.5], [True], [-1], [257], ["a", 1], [["a"]], None, 5, "a\0b"]
)
def test_a_bad_prompt_is_named(served, prompt):
    assert refusal(served.complete(prompt))["param"].startswith("prompt")


ASKING = {"suffix": "x"}


@pytest.mark.parametrize("field", sorted(NOT_BUILT.keys() - ChatRequest.model_fields.keys()))
def test_what_is_not_built_is_refused_by_name(served, field):
    error = refusal(served.chat(**{field: ASKING.get(field, {"any": "thing"})}))
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    assert "not supported yet" in error["message"]
    for harmless in NOT_BUILT[field]:
        served.chat(**{field: harmless}).raise_for_status()


@pytest.mark.parametrize("field", ["audio", "function_call", "refusal"])
def test_what_is_not_built_of_a_message_is_refused_by_name(served, field):
    def answer(value: object):
        earlier = {"role": "assistant", "content": "x", field: value}
        body = {"model": "base", "messages": [USER, earlier, USER]}
        return served.http.post("/v1/chat/completions", json=body)

    error = refusal(answer(["any"]))
    assert (error["param"], error["code"]) == (f"messages[1].{field}", "unsupported_parameter")
    assert "not supported yet" in error["message"]
    nothing: list[str] | None
    for nothing in (None, []):
        answer(nothing).raise_for_status()


def test_unknown_model(served):
    for response in (
        served.chat(model="gpt-5"),
        served.complete("x", model="gpt-5"),
        served.http.get("/v1/models/gpt-5"),
    ):
        error = refusal(response, 404)
        assert error["code"] == "model_not_found"
        assert all(name in error["message"] for name in ("base", "pirate", "devil"))


def test_prompt_over_the_context(served):
    for stream in (False, True):
        error = refusal(served.chat("x" * 600, stream=stream))
        assert error["code"] == "context_length_exceeded"
        assert "606" in error["message"]
        assert "512" in error["message"]
    assert refusal(served.chat("x", max_tokens=510))["code"] == "context_length_exceeded"


def test_body_over_the_limit(served):
    error = refusal(served.chat("x" * 400_000), 413)
    assert "300000" in error["message"]


def test_only_json_is_read(served):
    """What a browser would send across origins without asking is not obeyed."""
    body = json.dumps({"model": "base", "messages": [USER]}).encode()
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        refusal(post(served, body, content_type=content_type), 415)
    post(served, body, content_type="application/json; charset=utf-8").raise_for_status()
    assert (
        "access-control-allow-origin"
        not in served.http.get("/v1/models", headers={"origin": "http://x"}).headers
    )


def test_paths_and_methods(served):
    refusal(served.http.get("/v1/nothing"), 404)
    refusal(served.http.get("/v1/chat/completions"), 405)
    refusal(served.http.get("/docs"), 404)


def test_half_a_request_then_silence_harms_nobody(served):
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        served.chat().raise_for_status()
    served.chat().raise_for_status()


def test_full_queue(served):
    served.engine.max_waiting = 0
    for stream in (False, True):
        response = served.chat(stream=stream)
        assert refusal(response, 429)["type"] == "rate_limit_error"
        assert int(response.headers["retry-after"]) >= 1


def test_a_defect_is_a_500_without_details(served, caplog):
    served.engine.failure = "submit"
    with caplog.at_level(logging.INFO):
        response = served.chat("my secret prompt")
    error = refusal(response, 500)
    assert error["type"] == "server_error"
    request_id = response.headers["x-request-id"]
    assert request_id in error["message"]
    assert request_id in caplog.text
    assert "ZeroDivisionError" in caplog.text
    for text in (response.text, caplog.text):
        assert "secret" not in text
    assert "Traceback" not in response.text
    wait_until(lambda: not served.service.running)


def test_an_engine_that_fails_midway(served):
    served.engine.failure = "step"
    error = refusal(served.chat(), 500)
    assert "secret" not in error["message"]
    lines = served.chat(stream=True).text.strip().split("\n\n")
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "server_error"
    wait_until(lambda: not served.service.running)  # it is forgotten after its last byte


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *NOT_BUILT})


@settings(max_examples=300)
@given(
    st.sampled_from([ChatRequest, CompletionRequest]),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6),
)
def test_any_json_is_read_or_refused(kind, body):
    body = {"model": "base", "messages": [USER], "prompt": "x", **body}
    with contextlib.suppress(RequestError):
        try:
            kind.model_validate_json(json.dumps(body))
        except ValidationError as error:
            raise invalid(error) from None
