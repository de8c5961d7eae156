"""Reasoning over HTTP: split from the answer, whole and streamed, counted in the usage, bounded by a budget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.byte_codec import ByteCodec
from support.fake_chat_model import FakeChatModel, FakeEngine, serving
from support.serve_streams import chunks_of, whole_of

from ptune.codecs.reasoning import ReasoningFormat
from ptune.formats.request_defaults import RequestDefaults
from ptune_serve.app import create_app
from ptune_serve.service import Settings

FORM = ReasoningFormat("<think>\n", "\n</think>\n\n")
THOUGHT, SAID = "Naïve? 42 ☠", "It is 42 ☠."
ANSWER = f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}  # fmt: skip
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


@dataclass
class Thinker:
    url: str
    engine: FakeEngine
    http: httpx.Client
    model: str = "base"
    path: str = "/v1/chat/completions"
    asked: list[dict[str, Any]] = field(default_factory=list)

    def post(self, content: str = "ahoy", **fields: Any) -> httpx.Response:
        body = {"model": "base", "messages": [{"role": "user", "content": content}], **fields}
        return self.http.post(self.path, json=body)

    def message(self, content: str = "ahoy", **fields: Any) -> dict[str, Any]:
        response = self.post(content, **fields)
        assert response.status_code == 200, response.text
        message: dict[str, Any] = response.json()["choices"][0]["message"]
        return message


@pytest.fixture(scope="module")
def _one_server() -> Iterator[Thinker]:
    thrifty = ByteCodec(reasoning=FORM, defaults=RequestDefaults(thinking_token_budget=7))
    model = FakeChatModel(codecs={"base": ByteCodec(reasoning=FORM), "devil": thrifty})
    app = create_app(model, Settings(thinking_token_budget=9))
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as http:
        yield Thinker(url, model.engine, http)


@pytest.fixture
def thinker(_one_server: Thinker) -> Thinker:
    _one_server.engine.__init__(script=ANSWER)  # type: ignore[misc]
    return _one_server


@pytest.fixture
def client(thinker: Thinker) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{thinker.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client


def test_the_openai_client_reads_the_reasoning(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="base", messages=[{"role": "user", "content": "?"}])
    message = completion.choices[0].message
    assert (message.content, message.reasoning_content) == (SAID, THOUGHT)  # type: ignore[attr-defined]
    usage = completion.usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    thinking = len(ANSWER.partition("</think>")[0].encode()) + len("</think>")
    assert usage.completion_tokens_details.reasoning_tokens == thinking
    assert usage.completion_tokens == len(ANSWER.encode()) + 1


def test_the_openai_client_streams_the_reasoning(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="base",
        messages=[{"role": "user", "content": "?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(thoughts) == THOUGHT
    assert "".join(delta.content or "" for delta in deltas) == SAID
    assert sum(map(bool, thoughts)) > 5  # it comes piece by piece, and before the answer
    assert max(at for at, text in enumerate(thoughts) if text) < min(
        at for at, delta in enumerate(deltas) if delta.content
    )
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.sampled_from(["<think>", "</think>", "\n", "\n\n", "<", "ah ☠", "stop", CALL]), max_size=8
    ),
    stop=st.booleans(),
    tools=st.booleans(),
)
def test_streams_join_to_the_whole_answer(
    thinker: Thinker, parts: list[str], stop: bool, tools: bool
) -> None:
    thinker.engine.script = "".join(parts)
    fields: dict[str, Any] = {"stop": ["stop"]} if stop else {}
    fields |= {"tools": [NOW]} if tools else {}
    whole = thinker.message(**fields)
    streamed = whole_of(chunks_of(thinker.post(**fields, stream=True)))[0]["message"]
    assert (streamed.get("reasoning_content") or None) == whole["reasoning_content"]
    assert (streamed["content"] or None) == (whole["content"] or None)
    assert len(streamed.get("tool_calls") or []) == len(whole.get("tool_calls") or [])
    if not stop and not tools and not whole["reasoning_content"] and "<think>" not in thinker.engine.script:
        assert whole["content"] == thinker.engine.script


def test_an_answer_without_reasoning(thinker: Thinker) -> None:
    thinker.engine.script = SAID
    response = thinker.post().json()
    assert response["choices"][0]["message"]["reasoning_content"] is None
    assert response["choices"][0]["message"]["content"] == SAID
    assert response["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_the_prompt_may_have_begun_or_ended_it(thinker: Thinker) -> None:
    thinker.engine.script = ANSWER.removeprefix(FORM.begin)
    begun = thinker.message("think: <think>\n")
    assert (begun["reasoning_content"], begun["content"]) == (THOUGHT, SAID)
    ended = thinker.message("<think>\n\n</think>\n\n")
    assert (ended["reasoning_content"], ended["content"]) == (None, thinker.engine.script)


def test_an_answer_that_goes_on_may_go_on_thinking(thinker: Thinker) -> None:
    thinker.engine.script = ANSWER.removeprefix(FORM.begin)
    for said, reasoning in (("<think>\nSo", THOUGHT), ("<think>\nSo\n</think>\n\nIt", None)):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
        asked = {"model": "base", "messages": messages, "continue_final_message": True}
        message = thinker.http.post(thinker.path, json=asked).json()["choices"][0]["message"]
        assert message["reasoning_content"] == reasoning


def test_a_cut_answer_is_reasoning_up_to_there(thinker: Thinker) -> None:
    choice = thinker.post(max_tokens=12).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == (THOUGHT[:3], "")


def test_stop_texts_count_in_what_is_said_alone(thinker: Thinker) -> None:
    message = thinker.message(stop=["42"])
    assert (message["reasoning_content"], message["content"]) == (THOUGHT, "It is ")


def test_each_choice_has_its_own(thinker: Thinker) -> None:
    choices = thinker.post(n=2).json()["choices"]
    assert [choice["message"]["reasoning_content"] for choice in choices] == [THOUGHT] * 2


def test_calls_after_reasoning(thinker: Thinker) -> None:
    thinker.engine.script = f"<think>\n{CALL}\n</think>\n\n{CALL}"
    for stream in (False, True):
        response = thinker.post(tools=[NOW], stream=stream)
        choice = whole_of(chunks_of(response))[0] if stream else response.json()["choices"][0]
        assert choice["message"]["reasoning_content"] == CALL
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["now"]
        assert choice["finish_reason"] == "tool_calls"


def test_it_can_be_left_out(thinker: Thinker) -> None:
    response = thinker.post(include_reasoning=False).json()
    assert response["choices"][0]["message"] == {"role": "assistant", "content": SAID, "refusal": None}
    assert response["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert THOUGHT[:4] not in thinker.post(include_reasoning=False, stream=True).text


def test_logprobs_are_of_all_tokens(thinker: Thinker) -> None:
    choice = thinker.post(logprobs=True).json()["choices"][0]
    assert bytes(byte for one in choice["logprobs"]["content"] for byte in one["bytes"]).decode() == ANSWER


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_form_begins_after_the_reasoning(thinker: Thinker, begun: bool, seed: int) -> None:
    """The fake engine draws any token that the grammar allows: to end what it thinks it would have to guess the mark."""
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
    choice = thinker.post("<think>" if begun else "?", **form, seed=seed).json()["choices"][0]
    if begun:
        assert choice["message"]["reasoning_content"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    elif choice["message"]["reasoning_content"] is None:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


def test_a_form_is_the_same_where_the_prompt_has_ended_the_reasoning(thinker: Thinker) -> None:
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
    message = thinker.message("<think></think>", **form)
    jsonschema.validate(json.loads(message["content"]), SCHEMA)


@pytest.mark.parametrize(
    ("model", "fields", "budget"),
    [
        ("base", {"thinking_token_budget": 3}, 3),
        ("base", {"thinking_token_budget": 0}, 0),
        ("base", {"thinking_token_budget": -1}, None),
        ("base", {}, 9),  # the server's
        ("devil", {}, 7),  # the adapter's own
        ("devil", {"thinking_token_budget": 3}, 3),
        ("devil", {"num_beams": 2}, None),
        ("pirate", {}, None),  # it cannot think
        ("pirate", {"thinking_token_budget": -1}, None),
    ],
)
def test_a_budget(thinker: Thinker, model: str, fields: dict[str, Any], budget: int | None) -> None:
    assert thinker.post(model=model, **fields).status_code == 200
    thinking = thinker.engine.requests[-1].thinking
    assert (thinking and thinking.tokens) == budget
    if thinking:
        assert (thinking.begin, thinking.end, bytes(thinking.closing)) == (
            b"<think>",
            b"</think>",
            FORM.end.encode(),
        )


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("pirate", {"thinking_token_budget": 3}),
        ("base", {"thinking_token_budget": -2}),
        ("base", {"thinking_token_budget": 3, "num_beams": 2}),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    thinker: Thinker, model: str, fields: dict[str, Any]
) -> None:
    response = thinker.post(model=model, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "thinking_token_budget"


def test_a_model_that_does_not_think_answers_as_ever(thinker: Thinker) -> None:
    response = thinker.post(model="pirate").json()
    assert response["choices"][0]["message"] == {"role": "assistant", "content": ANSWER, "refusal": None}
    assert "completion_tokens_details" not in response["usage"]
