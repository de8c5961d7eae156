"""Anthropic's Messages API: the `anthropic` package, unmodified, against a real socket; what is refused, and how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from starlette.testclient import TestClient
from support.byte_codec import ByteCodec
from support.error_forms import said
from support.fake_chat_model import FakeChatModel, FakeEngine, wait_until
from support.thinking_codec import ANSWER, FORM, Thinks

from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_app
from ptune_serve.service import Settings

USER: Any = [{"role": "user", "content": "ahoy ☠"}]
WEATHER: Any = {
    "name": "weather",
    "description": "Tells it.",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string", "maxLength": 4}},
        "required": ["place"],
        "additionalProperties": False,
    },
}
NOW: Any = {"name": "now", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo"}}\n</tool_call>'
USE = {"type": "tool_use", "id": "call1", "name": "weather", "input": {"place": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "call1", "content": "4 C"}


@pytest.fixture
def client(served: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0, timeout=20) as client:
        yield client


def test_a_message(client: anthropic.Anthropic, served: Any) -> None:
    answer = client.messages.create(model="pirate", max_tokens=50, messages=USER, system="Be brief.")
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "pirate heard: ahoy ☠"}]
    assert (answer.role, answer.model, answer.type) == ("assistant", "pirate", "message")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert served.prompt == "<system>Be brief.<user>ahoy ☠"
    assert answer.usage.input_tokens == len(served.engine.requests[-1].prompt)
    assert answer.usage.output_tokens == len("pirate heard: ahoy ☠".encode()) + 1


def test_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="devil", max_tokens=50, messages=USER) as stream:
        events = [event.type for event in stream]
        answer = stream.get_final_message()
    named = [kind for kind in events if kind != "text"]  # the package's own event beside each delta
    first, *deltas, last, delta, stop = [kind for kind in named if kind != "message_start"]
    assert (named[0], first) == ("message_start", "content_block_start")
    assert set(deltas) == {"content_block_delta"}
    assert len(deltas) > 10  # as it is written
    assert (last, delta, stop) == ("content_block_stop", "message_delta", "message_stop")
    assert answer.content[0].to_dict() == {"type": "text", "text": "devil heard: ahoy ☠"}
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == len("devil heard: ahoy ☠".encode()) + 1
    assert answer.usage.input_tokens == len("<user>ahoy ☠".encode())


@pytest.mark.parametrize("stream", [False, True])
def test_why_it_stopped(client: anthropic.Anthropic, stream: bool) -> None:
    def stopped(**fields: Any) -> tuple[Any, Any, str]:
        asked: Any = {"model": "pirate", "max_tokens": 50, "messages": USER, **fields}
        if stream:
            with client.messages.stream(**asked) as events:
                answer = events.get_final_message()
        else:
            answer = client.messages.create(**asked)
        text = "".join(block.text for block in answer.content if block.type == "text")
        return answer.stop_reason, answer.stop_sequence, text

    assert stopped(max_tokens=3) == ("max_tokens", None, "pir")
    assert stopped(stop_sequences=["xyz", "heard"]) == ("stop_sequence", "heard", "pirate ")
    assert stopped(stop_sequences=["xyz"]) == ("end_turn", None, "pirate heard: ahoy ☠")


@pytest.mark.parametrize("stream", [False, True])
def test_more_tokens_than_the_context_has_are_as_many_as_fit(
    client: anthropic.Anthropic, served: Any, stream: bool
) -> None:
    """Agents ask for 16,384 or 32,000 whatever the model is."""
    asked: Any = {"model": "pirate", "max_tokens": 32_000, "system": "x" * 470, "messages": USER}
    if stream:
        with client.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = client.messages.create(**asked)
    assert answer.stop_reason == "model_context_window_exceeded"
    assert answer.usage.input_tokens + answer.usage.output_tokens == served.engine.context
    served.engine.scripts = {"ahoy ☠": "Ar!"}
    assert client.messages.create(**asked).stop_reason == "end_turn"


def test_sampling_reaches_the_engine(client: anthropic.Anthropic, served: Any) -> None:
    client.messages.create(
        model="pirate",
        max_tokens=5,
        messages=USER,
        metadata={"user_id": "x"},
        extra_body={"temperature": 0.5, "top_k": 7, "top_p": 0.75},  # the package has forgotten their names
    )
    sampling = served.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 7, 0.75)
    client.messages.create(model="pirate", max_tokens=5, messages=USER)
    default = served.engine.requests[-1].sampling
    served.chat()
    assert default == served.engine.requests[-1].sampling


def test_a_tool_is_called_and_answered(client: anthropic.Anthropic, served: Any) -> None:
    served.engine.scripts = {"weather?": f"Let me see.\n{CALL}"}
    asked: Any = {"model": "pirate", "max_tokens": 200, "tools": [WEATHER, NOW]}
    question: Any = {"role": "user", "content": "weather?"}
    answer = client.messages.create(**asked, messages=[question])
    assert served.prompt.startswith("<tool weather><tool now>")
    assert answer.stop_reason == "tool_use"
    text, call = answer.content
    assert text.type == "text"
    assert text.text == "Let me see."
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("weather", {"place": "Oslo"})
    with client.messages.stream(**asked, messages=[question]) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds.count("input_json") > 5  # arguments come as they are written
    assert [block.to_dict() | {"id": ""} for block in streamed.content] == [
        block.to_dict() | {"id": ""} for block in answer.content
    ]
    result: Any = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "4 C"}],
    }
    turns: Any = [question, {"role": "assistant", "content": answer.content}]
    turns += [{"role": "user", "content": [result, {"type": "text", "text": "so?"}]}]
    after = client.messages.create(**asked, messages=turns)
    assert served.prompt.endswith("<assistant>Let me see.<calls weather><tool>4 C<user>so?")
    assert after.content[0].to_dict()["text"] == "pirate heard: so?"


@pytest.mark.parametrize(
    ("script", "stop", "reason"),
    [
        (CALL, "Oslo", "stop_sequence"),  # within the arguments
        (CALL[:60], "never", "end_turn"),
        (f"{CALL} and more", "more", "tool_use"),
    ],
)
def test_only_a_whole_call_is_to_be_answered(
    client: anthropic.Anthropic, served: Any, script: str, stop: str, reason: str
) -> None:
    """A client that is told `tool_use` runs the tool: of a call that was cut it would not get the arguments."""
    served.engine.script = script
    asked: Any = {"model": "pirate", "max_tokens": 200, "tools": [WEATHER], "messages": USER}
    answer = client.messages.create(**asked, stop_sequences=[stop])
    with client.messages.stream(**asked, stop_sequences=[stop]) as stream:
        assert [event.delta.stop_reason for event in stream if event.type == "message_delta"] == [reason]
    assert (answer.content[0].type, answer.stop_reason) == ("tool_use", reason)


def test_a_call_can_be_required_chosen_and_forbidden(client: anthropic.Anthropic, served: Any) -> None:
    asked: Any = {"model": "pirate", "max_tokens": 300, "tools": [WEATHER], "messages": USER}
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        one: Any = {**choice, "disable_parallel_tool_use": True}
        answer = client.messages.create(**asked, tool_choice=one)
        assert [block.type for block in answer.content] == ["tool_use"]
        assert answer.stop_reason == "tool_use"
    answer = client.messages.create(**asked, tool_choice={"type": "none"})
    assert "<tool weather>" not in served.prompt
    assert answer.stop_reason == "end_turn"


def test_an_answer_goes_on_with_what_is_put_into_its_mouth(client: anthropic.Anthropic, served: Any) -> None:
    turns: Any = [*USER, {"role": "assistant", "content": "Ar"}]
    client.messages.create(model="pirate", max_tokens=5, messages=turns)
    assert served.prompt.endswith("<assistant>Ar")


def test_an_answer_has_a_form(client: anthropic.Anthropic) -> None:
    schema: Any = {"type": "json_schema", "schema": {"enum": ["yes"]}}
    answer = client.messages.create(
        model="pirate", max_tokens=50, messages=USER, output_config={"format": schema}
    )
    assert answer.content[0].to_dict()["text"] == '"yes"'


def test_models_are_listed(client: anthropic.Anthropic) -> None:
    assert [model.id for model in client.models.list()] == ["base", "pirate", "devil"]


def test_tokens_are_counted(client: anthropic.Anthropic, served: Any) -> None:
    turns: Any = [*USER, {"role": "assistant", "content": "Ar!"}, *USER]
    asked: Any = {"model": "pirate", "messages": turns, "system": "Be brief.", "tools": [WEATHER]}
    counted = client.messages.count_tokens(**asked)
    assert counted.input_tokens == client.messages.create(**asked, max_tokens=1).usage.input_tokens
    assert len(served.engine.requests) == 1


@pytest.fixture
def thinker() -> Iterator[TestClient]:
    engine = FakeEngine(script=ANSWER)
    codecs = {"base": Thinks(reasoning=FORM), "devil": ByteCodec(reasoning=FORM)}
    with TestClient(create_app(FakeChatModel(engine, codecs=codecs))) as http:
        http.engine = engine  # type: ignore[attr-defined]
        yield http


def thought(http: Any, model: str = "base", **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/messages", json={"model": model, "max_tokens": 99, "messages": USER, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_what_is_thought_is_a_block_of_its_own(thinker: Any) -> None:
    answer = thought(thinker)
    thinking = {"type": "thinking", "thinking": "Six times seven.", "signature": ""}
    assert answer["content"] == [thinking, {"type": "text", "text": "It is 42."}]
    counted = answer["usage"]["output_tokens_details"]["thinking_tokens"]
    assert counted == len(ANSWER.partition("</think>")[0]) + len("</think>")
    turns = [*USER, {"role": "assistant", "content": answer["content"]}, *USER]
    assert thought(thinker, messages=turns)["content"] == answer["content"]
    events = thinker.post(
        "/v1/messages", json={"model": "base", "max_tokens": 99, "messages": USER, "stream": True}
    ).text
    parts = [json.loads(line[6:]) for line in events.split("\n") if line.startswith("data: ")]
    deltas = [part["delta"] for part in parts if part["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Six times seven."
    assert "".join(delta.get("text", "") for delta in deltas) == "It is 42."


def test_thinking_is_switched_and_bounded(thinker: Any) -> None:
    def request_of(model: str, **thinking: Any) -> Any:
        thought(thinker, model, thinking=thinking)
        return thinker.engine.requests[-1]

    assert b"<enable_thinking=False>" in bytes(request_of("base", type="disabled").prompt)
    assert b"<enable_thinking=True>" in bytes(request_of("base", type="enabled", budget_tokens=7).prompt)
    assert thinker.engine.requests[-1].thinking.tokens == 7
    assert request_of("base", type="adaptive").thinking is None
    assert request_of("devil", type="disabled").thinking.tokens == 0  # its template has no switch
    assert request_of("pirate", type="disabled").thinking is None  # it does not think
    body = {
        "model": "pirate",
        "max_tokens": 9,
        "messages": USER,
        "thinking": {"type": "enabled", "budget_tokens": 5},
    }
    refused = thinker.post("/v1/messages", json=body)
    assert refused.status_code == 400
    assert "marks no reasoning" in said(refused.json())
    shown = thought(thinker, thinking={"type": "adaptive", "display": "omitted"})["content"]
    assert [block["type"] for block in shown] == ["text"]


def test_either_header_brings_the_key() -> None:
    app = create_app(FakeChatModel(), Settings(api_keys=ApiKeys(("secret",))))
    body = {"model": "base", "max_tokens": 9, "messages": USER}
    with TestClient(app) as http:
        for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
            assert http.post("/v1/messages", json=body, headers=headers).status_code == 200
            assert http.get("/v1/models", headers=headers).status_code == 200
        for headers in ({"x-api-key": "wrong"}, {}):
            refused = http.post("/v1/messages", json=body, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["type"] == "authentication_error"


def test_errors_are_the_packages_own(client: anthropic.Anthropic, served: Any) -> None:
    asked: Any = {"model": "pirate", "max_tokens": 9, "messages": USER}
    with pytest.raises(anthropic.NotFoundError, match="no model 'claude'") as unknown:
        client.messages.create(**{**asked, "model": "claude"})
    assert unknown.value.body == {
        "type": "error",
        "error": {
            "type": "not_found_error",
            "message": "no model 'claude' here; served: base, pirate, devil",
        },
    }
    with pytest.raises(anthropic.BadRequestError, match="at most 512"):
        client.messages.create(**{**asked, "system": "x" * 600})
    with pytest.raises(anthropic.RequestTooLargeError):
        client.messages.create(**{**asked, "system": "x" * 400_000})
    served.engine.max_waiting = 0
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(**asked)


def test_an_error_in_a_stream_is_raised(client: anthropic.Anthropic, served: Any) -> None:
    served.engine.failure = "step"
    with (
        pytest.raises(anthropic.APIStatusError, match="engine failed"),
        client.messages.stream(model="base", max_tokens=9, messages=USER) as stream,
    ):
        stream.get_final_message()


def test_who_goes_away_is_not_answered_further(client: anthropic.Anthropic, served: Any) -> None:
    served.engine.may_end = 0
    with client.messages.stream(model="base", max_tokens=400, messages=USER) as stream:
        next(iter(stream.text_stream))
    wait_until(lambda: served.engine.cancelled and not served.service.running)


def turn(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens: Field required"),
    ({"max_tokens": 0}, "max_tokens: "),
    ({"messages": []}, "messages: "),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role: "),
    ({"messages": [turn("user")]}, "messages[0].content: "),
    ({"messages": [turn("user", IMAGE)]}, "messages: this model sees no images: send text alone"),
    ({"messages": [turn("user", "hi")]}, "messages[0].content[0]: must be a block"),
    ({"messages": [turn("user", {"type": "text"})]}, "messages[0].content[0]: text: Field required"),
    (
        {"messages": [turn("user", {"type": "text", "text": "a", "made_up": 1})]},
        "messages[0].content[0]: made_up: there is no such field",
    ),
    ({"messages": [turn("user", USE)]}, "a tool_use block cannot be in a message of role user"),
    ({"messages": [turn("user", RESULT)]}, "messages[0].content[0]: the answer before it has no tool_use"),
    (
        {"messages": [*USER, turn("assistant", USE), turn("user", {**RESULT, "tool_use_id": "x"})]},
        "messages[2].content[0]: the answer before it has no tool_use with the id 'x'",
    ),
    ({"messages": [{**USER[0], "name": "x"}]}, "messages[0].name: there is no such field"),
    ({"system": 5}, "system: "),
    ({"temperature": "hot"}, "temperature: "),
    ({"temperature": 3}, "temperature: "),
    ({"top_k": -2}, "top_k: "),
    ({"stop_sequences": [""]}, "stop_sequences[0]: "),
    ({"stream": "yes"}, "stream: "),
    ({"metadata": {"trace": "x"}}, "metadata.trace: there is no such field"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "type 'web_search_20250305' is not"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0]: function.name: "),
    ({"tools": [NOW, NOW]}, "tools: two tools have the same name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice needs tools"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice: name is needed"),
    ({"tools": [NOW], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice: no tool has the name 'x'"),
    ({"thinking": {"type": "enabled"}}, "thinking: budget_tokens is needed"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "output_config.format: "),
    ({"output_config": {"effort": "high", "made_up": 1}}, "output_config.made_up: there is no such field"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers is not supported yet"),
    ({"max_token": 5}, "max_token: there is no such field; did you mean max_tokens?"),
    ({"frequency_penalty": 1.0}, "frequency_penalty: there is no such field"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_is_said_in_one_sentence(served: Any, fields: dict[str, Any], message: str) -> None:
    body = {"model": "base", "messages": USER, "max_tokens": 9, **fields}
    response = served.http.post("/v1/messages", json=body)
    assert response.status_code == 400, response.text
    assert message in said(response.json())
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert "\n" not in said(response.json())


def test_what_the_template_refuses_is_said_in_its_words(served: Any) -> None:
    body = {"model": "base", "max_tokens": 9, "messages": [{"role": "assistant", "content": "Ar!"}, *USER]}
    response = served.http.post("/v1/messages", json=body)
    assert response.status_code == 400
    assert said(response.json()) == "a conversation must not begin with the assistant"


def test_hints_are_taken(served: Any) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": "base",
        "max_tokens": 50,
        "messages": [turn("user", {"type": "text", "text": "ahoy", **mark})],
        "system": [{"type": "text", "text": "Be ", **mark}, {"type": "text", "text": "brief."}],
        "tools": [{**NOW, **mark, "type": "custom"}],
        "service_tier": "auto",
        **mark,
    }
    assert served.http.post("/v1/messages?beta=true", json=body).status_code == 200
    assert served.prompt == "<tool now><system>Be brief.<user>ahoy"
