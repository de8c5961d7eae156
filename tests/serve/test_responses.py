"""OpenAI's Responses API: the `openai` package, unmodified, against a real socket, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel
from starlette.testclient import TestClient
from support.error_forms import said
from support.fake_chat_model import FakeChatModel, FakeEngine, wait_until
from support.real_codec import real_codec
from support.thinking_codec import ANSWER, FORM, Thinks

from ptune_serve.app import create_app

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tells it.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "maxLength": 4}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": False,
}
NOW: Any = {"type": "function", "name": "now", "parameters": None, "strict": None}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo"}}\n</tool_call>'


def test_a_response(client: openai.OpenAI, served: Any) -> None:
    answer = client.responses.create(model="pirate", input="ahoy ☠", instructions="Be brief.")
    assert answer.output_text == "pirate heard: ahoy ☠"
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    assert served.prompt == "<system>Be brief.<user>ahoy ☠"
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(served.engine.requests[-1].prompt)
    assert answer.usage.output_tokens == len("pirate heard: ahoy ☠".encode()) + 1
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    raw = served.http.post(
        "/v1/responses", json={"model": "pirate", "input": "ahoy", "tools": [WEATHER, NOW]}
    )
    Response.model_validate(raw.json(), strict=True)


def test_tokens_that_were_found_in_the_cache_are_told(
    client: openai.OpenAI, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were always 0."""
    monkeypatch.setattr(served.engine, "reused", 7)
    answer = client.responses.create(model="pirate", input="ahoy")
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 7
    chat = client.chat.completions.create(model="pirate", messages=[{"role": "user", "content": "ahoy"}], n=3)
    assert chat.usage is not None
    assert chat.usage.prompt_tokens_details is not None
    assert chat.usage.prompt_tokens_details.cached_tokens == 7, "a prompt with several choices counts once"


def test_a_tool_with_a_number_that_no_answer_can_repeat_is_refused(served: Any) -> None:
    tool = '{"type": "function", "name": "now", "parameters": {"default": 1e400}}'
    response = served.http.post(
        "/v1/responses",
        content=f'{{"model": "pirate", "input": "a", "tools": [{tool}]}}',
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 400, response.text
    assert "tools[0].parameters: every number must be finite" in response.json()["error"]["message"]


def test_a_stream(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="devil", input="ahoy ☠", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "devil heard: ahoy ☠"
    assert len(deltas) > 10  # as it is written
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "devil heard: ahoy ☠"
    with client.responses.stream(model="devil", input="ahoy ☠") as stream:
        final = stream.get_final_response()
    assert final.output_text == "devil heard: ahoy ☠"


def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="pirate", input="ahoy", max_output_tokens=3)
    assert (answer.status, answer.output_text) == ("incomplete", "pir")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"  # type: ignore[union-attr]
    events = list(client.responses.create(model="pirate", input="ahoy", max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"


def test_a_function_is_called_and_answered(client: openai.OpenAI, served: Any) -> None:
    served.engine.scripts = {"weather?": f"Let me see.\n{CALL}"}
    asked: Any = {"model": "pirate", "tools": [WEATHER, NOW]}
    answer = client.responses.create(**asked, input="weather?")
    assert served.prompt.startswith("<tool weather><tool now>")
    text, call = answer.output
    assert (text.type, answer.output_text) == ("message", "Let me see.")
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("weather", {"place": "Oslo"})
    with client.responses.stream(**asked, input="weather?") as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.delta") > 5
    called = streamed.output[1]
    assert called.type == "function_call"
    assert called.arguments == call.arguments
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "4 C"}
    question: Any = {"role": "user", "content": "weather?"}
    so: Any = {"role": "user", "content": [{"type": "input_text", "text": "so?"}]}
    shown = "<user>weather?<assistant>Let me see.<calls weather><tool>4 C<user>so?"
    whole = client.responses.create(**asked, input=[question, *answer.output, result, so])
    assert served.prompt.endswith(shown)
    assert whole.output_text == "pirate heard: so?"
    client.responses.create(**asked, input=[result, so], previous_response_id=answer.id)
    assert served.prompt.endswith(shown)


def test_each_item_of_a_stream_is_complete_when_it_is_done(client: openai.OpenAI, served: Any) -> None:
    """All but the last were told as incomplete, so that agents did not run their calls."""
    served.engine.scripts = {"weather?": f"Let me see.\n{CALL}\n{CALL}"}
    asked: Any = {"model": "pirate", "tools": [WEATHER], "input": "weather?"}
    events = list(client.responses.create(**asked, stream=True))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.type for item in done] == ["message", "function_call", "function_call"]
    assert [item.status for item in done] == ["completed"] * 3


def test_a_call_in_which_the_answer_ends_is_incomplete(client: openai.OpenAI, served: Any) -> None:
    served.engine.scripts = {"weather?": CALL.partition("Os")[0]}
    asked: Any = {"model": "pirate", "tools": [WEATHER], "input": "weather?"}
    [call] = client.responses.create(**asked).output
    assert (call.type, call.status) == ("function_call", "incomplete")


def test_instructions_and_what_a_developer_says_first_are_one_message() -> None:
    """Coding agents send both, and many templates take one system message alone."""
    template = (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    codec = real_codec(template)
    model = FakeChatModel(codecs={"base": codec})
    developer = {"type": "message", "role": "developer", "content": "Ask before you write."}
    body = {
        "model": "base",
        "instructions": "You write code.",
        "input": [developer, {"role": "user", "content": "a"}],
    }
    with TestClient(create_app(model)) as http:
        response = http.post("/v1/responses", json=body)
    assert response.status_code == 200, response.text
    shown = codec.decode(model.engine.requests[-1].prompt)
    assert shown == "[system]You write code.\n\nAsk before you write.[user]a"


def test_a_call_can_be_required_chosen_and_forbidden(client: openai.OpenAI, served: Any) -> None:
    asked: Any = {"model": "pirate", "input": "ahoy", "tools": [WEATHER], "parallel_tool_calls": False}
    choices: Any = ["required", {"type": "function", "name": "weather"}]
    for choice in choices:
        answer = client.responses.create(**asked, tool_choice=choice)
        assert [item.type for item in answer.output] == ["function_call"]
    client.responses.create(**asked, tool_choice="none")
    assert "<tool weather>" not in served.prompt


def test_an_answer_has_a_form(client: openai.OpenAI) -> None:
    class Yes(BaseModel):
        yes: bool

    parsed = client.responses.parse(model="pirate", input="ahoy", text_format=Yes)
    assert isinstance(parsed.output_parsed, Yes)
    answer = client.responses.create(model="pirate", input="ahoy", text={"format": {"type": "json_object"}})
    assert answer.output_text.startswith("{")


def test_who_goes_away_is_not_answered_further(client: openai.OpenAI, served: Any) -> None:
    served.engine.may_end = 0
    with client.responses.create(model="pirate", input="ahoy", stream=True) as stream:
        created = next(stream)
        next(stream)
    assert created.type == "response.created"
    wait_until(lambda: served.engine.cancelled and not served.service.running)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(created.response.id)


def test_a_step_that_fails_ends_the_stream(client: openai.OpenAI, served: Any) -> None:
    served.engine.failure = "step"
    last = list(client.responses.create(model="pirate", input="ahoy", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.status, last.response.error.code) == ("failed", "server_error")
    assert "engine failed" in last.response.error.message
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="pirate", input="ahoy")


def test_what_is_thought_is_an_item_of_its_own() -> None:
    engine = FakeEngine(script=ANSWER)
    model = FakeChatModel(engine, codecs={"base": Thinks(reasoning=FORM)})
    with TestClient(create_app(model)) as http:

        def post(**fields: Any) -> Any:
            response = http.post("/v1/responses", json={"model": "base", "input": "?", **fields})
            assert response.status_code == 200, response.text
            return response

        answer = post().json()
        Response.model_validate(answer, strict=True)
        thought, message = answer["output"]
        assert thought["content"] == [{"type": "reasoning_text", "text": "Six times seven."}]
        assert (thought["type"], thought["summary"]) == ("reasoning", [])
        assert message["content"][0]["text"] == "It is 42."
        counted = answer["usage"]["output_tokens_details"]["reasoning_tokens"]
        assert counted == len(ANSWER.partition("</think>")[0]) + len("</think>")
        events = [json.loads(line[6:]) for line in post(stream=True).text.split("\n") if line[:5] == "data:"]
        deltas = [event["delta"] for event in events if event["type"] == "response.reasoning_text.delta"]
        assert "".join(deltas) == "Six times seven."
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert [item["type"] for item in done] == ["reasoning", "message"]
        assert [item["status"] for item in done] == ["completed", "completed"], "the first was incomplete"
        post(input=[{"role": "user", "content": "?"}, *answer["output"], {"role": "user", "content": "!"}])
        post(reasoning={"effort": "none"})
        assert b"<enable_thinking=False>" in bytes(engine.requests[-1].prompt)
        post(reasoning={"effort": "low", "summary": "auto"}, include=["reasoning.encrypted_content"])
        assert b"<reasoning_effort=low>" in bytes(engine.requests[-1].prompt)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input: Field required"),
    ({"input": []}, "input: "),
    ({"input": 5}, "input: "),
    ({"input": ["hi"]}, "input[0]: must be an item"),
    ({"input": [{"role": "wizard", "content": "hi"}]}, "input[0]: role: "),
    ({"input": [{"role": "user"}]}, "input[0]: content: Field required"),
    (
        {"input": [{"role": "user", "content": "hi", "made_up": 1}]},
        "input[0]: made_up: there is no such field",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0]: content[0]: image_url: an image must be a data URI",
    ),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "an item of type 'item_reference' is not supported"),
    (
        {"input": [{"type": "function_call_output", "call_id": "x", "output": "4 C"}]},
        "input[0]: there is no function_call before it with the call_id 'x'",
    ),
    ({"tools": [{"type": "web_search"}]}, "a tool of type 'web_search' is not supported"),
    ({"tools": [NOW, NOW]}, "tools: two tools have the same name"),
    ({"tool_choice": "required"}, "tool_choice needs tools"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice: must be"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format: a schema is needed"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}},
        "text.format: ",
    ),
    ({"reasoning": {"effort": "low", "mode": "pro"}}, "reasoning.mode: there is no such field"),
    ({"temperature": "hot"}, "temperature: "),
    ({"max_output_tokens": 0}, "max_output_tokens: "),
    ({"max_output_tokens": 600}, "max_output_tokens 600"),
    ({"store": "yes"}, "store: "),
    ({"metadata": {"a": 5}}, "metadata.a: "),
    ({"include": ["file_search_call.results"]}, "include: 'file_search_call.results' cannot be included"),
    ({"background": True}, "background is not supported yet; send stream: true"),
    ({"conversation": "conv_1"}, "conversation is not supported yet; send previous_response_id"),
    ({"truncation": "auto"}, "truncation is not supported yet"),
    ({"max_tokens": 5}, "max_tokens: there is no such field; did you mean max_output_tokens?"),
    ({"stream_options": {}}, "stream_options needs stream: true"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_is_said_in_one_sentence(served: Any, fields: dict[str, Any], message: str) -> None:
    response = served.http.post("/v1/responses", json={"model": "base", "input": "hi", **fields})
    assert response.status_code == 400, response.text
    assert message in said(response.json())
    assert "\n" not in said(response.json())


def test_every_field_of_the_package_is_known() -> None:
    """A field that a newer package has, and nobody here, is to be built or refused by name."""
    from openai.types.responses import response_create_params

    from ptune_serve.responses.schemas import NOT_BUILT, ResponsesRequest

    asked = set(response_create_params.ResponseCreateParamsBase.__annotations__)
    assert asked <= {*ResponsesRequest.model_fields, *NOT_BUILT}
