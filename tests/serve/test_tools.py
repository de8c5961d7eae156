"""Tools: what the model is shown, what it may answer, how its calls are told."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion
from starlette.testclient import TestClient
from support.byte_codec import ByteCodec
from support.fake_chat_model import FakeChatModel, wait_until
from support.serve_streams import chunks_of, whole_of

from ptune.codecs.tool_calls import ToolFormat
from ptune_serve.app import create_app
from ptune_serve.openai.tools import ToolUse

PARAMETERS = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 4}, "hot": {"type": "boolean"}},
    "required": ["place", "hot"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS},
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS: list[Any] = [WEATHER, NOW]
ONE = '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo", "hot": false}}\n</tool_call>'
TWO = f'Let me see.\n{ONE}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'


def answer(response: Any) -> dict[str, Any]:
    response.raise_for_status()
    ChatCompletion.model_validate(response.json(), strict=True)
    [choice] = response.json()["choices"]
    return choice


def functions(message: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message["tool_calls"]
    ]


def without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    calls = [{**call, "id": None} for call in message.get("tool_calls", ())]
    return {**choice, "message": {**message, "tool_calls": calls}}


def test_calls_are_told(served: Any) -> None:
    served.engine.script = TWO
    choice = answer(served.chat("How warm?", tools=TOOLS))
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    assert functions(choice["message"]) == [("weather", {"place": "Oslo", "hot": False}), ("now", {})]
    ids = [call["id"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(call_id.startswith("call_") for call_id in ids)


def test_streamed_calls_are_those_of_the_whole(served: Any) -> None:
    served.engine.script = TWO
    asked = {"tools": TOOLS, "n": 2, "logprobs": True, "return_token_ids": True}
    whole = served.chat("How warm?", **asked).json()
    chunks = chunks_of(served.chat("How warm?", **asked, stream=True))
    for streamed, choice in zip(whole_of(chunks), whole["choices"], strict=True):
        told = {**choice, "logprobs": choice["logprobs"]["content"]}
        assert without_ids(streamed) == without_ids(told)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    pieces = [delta["tool_calls"][0]["function"]["arguments"] for delta in deltas if "tool_calls" in delta]
    assert len(pieces) > 20  # as they are written, not as one piece at the end


def test_a_call_alone_has_no_content(served: Any) -> None:
    served.engine.script = ONE
    message = answer(served.chat("How warm?", tools=TOOLS))["message"]
    assert message["content"] is None


@pytest.mark.parametrize("written", ['{"a": 1e400}', '{"a": NaN}', '{"a": "\\ud800"}', '"{\\ud800}"'])
def test_arguments_that_are_no_json_break_no_answer(served: Any, written: str) -> None:
    """A model may write anything. What is sent is JSON, in every API, streamed or not."""
    served.engine.script = f'<tool_call>\n{{"name": "now", "arguments": {written}}}\n</tool_call>'
    schema: dict[str, Any] = {"type": "object"}
    asked = {"model": "pirate", "messages": [{"role": "user", "content": "a"}]}
    for path, fields in (
        ("/v1/chat/completions", {"tools": [NOW]}),
        ("/v1/messages", {"tools": [{"name": "now", "input_schema": schema}], "max_tokens": 99}),
        ("/api/chat", {"tools": [NOW], "stream": False}),
        ("/api/chat", {"tools": [NOW], "stream": True}),
    ):
        response = served.http.post(path, json=asked | fields)
        assert response.status_code == 200, (path, response.text)
        assert '"now"' in response.text
        for line in response.text.splitlines():
            told = json.loads(line, parse_constant=pytest.fail)
            assert json.dumps(told, ensure_ascii=False).encode()


def test_text_stays_text(served: Any) -> None:
    served.engine.script = "It is <tool_call>"
    choice = answer(served.chat("How warm?", tools=TOOLS))
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It is <tool_call>", "stop")
    assert "tool_calls" not in choice["message"]


def test_without_tools_nothing_is_read(served: Any) -> None:
    served.engine.script = ONE
    assert answer(served.chat("How warm?"))["message"]["content"] == ONE


def test_the_model_is_shown_the_tools(served: Any) -> None:
    for wanted, shown in (("auto", True), ("required", True), ("none", False)):
        served.chat("x", tools=TOOLS, tool_choice=wanted).raise_for_status()
        assert bytes(served.engine.requests[-1].prompt).startswith(b"<tool weather><tool now>") == shown
    served.engine.script = ONE
    choice = answer(served.chat("x", tools=TOOLS, tool_choice="none"))
    assert (choice["message"]["content"], choice["finish_reason"]) == (ONE, "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_at_a_time(served: Any, stream: bool) -> None:
    served.engine.script = TWO
    served.engine.may_end = 0
    response = served.chat("x", tools=TOOLS, parallel_tool_calls=False, stream=stream)
    choice = whole_of(chunks_of(response))[0] if stream else answer(response)
    assert functions(choice["message"]) == [("weather", {"place": "Oslo", "hot": False})]
    assert choice["finish_reason"] == "tool_calls"
    wait_until(lambda: served.engine.cancelled and not served.service.running)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_call_can_be_required(served: Any, seed: int, stream: bool) -> None:
    asked = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    response = served.chat("x", **asked, seed=seed, stream=stream)
    choice = whole_of(chunks_of(response))[0] if stream else answer(response)
    assert choice["finish_reason"] == "tool_calls"
    [(name, arguments)] = functions(choice["message"])
    jsonschema.validate(arguments, PARAMETERS if name == "weather" else {"const": {}})


@pytest.mark.parametrize("seed", [1, 2])
def test_a_call_can_be_named(served: Any, seed: int) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    choice = answer(served.chat("x", tools=TOOLS, tool_choice=named, seed=seed))
    [(name, arguments)] = functions(choice["message"])
    assert name == "weather"
    jsonschema.validate(arguments, PARAMETERS)
    assert choice["finish_reason"] == "stop"  # it was no choice of the model's, says OpenAI


def test_a_strict_tool_is_kept_to_though_none_is_required(served: Any) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    served.chat("x", tools=[strict, NOW], max_tokens=5).raise_for_status()
    assert served.engine.requests[-1].grammar is not None
    served.chat("x", tools=TOOLS, max_tokens=5).raise_for_status()
    assert served.engine.requests[-1].grammar is None
    odd = {"type": "function", "function": {"name": "odd", "strict": True, "parameters": {"not": {}}}}
    error = served.chat("x", tools=[odd]).json()["error"]
    assert (error["param"], error["code"]) == ("tools", "invalid_grammar")


def test_a_call_or_json(served: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "null"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    kinds = set()
    for seed in range(16):
        message = answer(
            served.chat("x", tools=[NOW], response_format=form, seed=seed, parallel_tool_calls=False)
        )["message"]
        if message["content"]:
            jsonschema.validate(json.loads(message["content"]), schema)
        kinds.add(message["content"] is None)
    assert kinds == {True, False}


def test_an_answer_in_json_is_no_call_where_none_is_marked() -> None:
    """Llama 3 writes calls without a mark."""
    llama = ToolFormat("llama", "", '{"name": "', '", "parameters": ', None, "}")
    choice = ToolUse([WEATHER], llama).choice()
    choice.read('{"name": "Bob"}', last=True)
    assert choice.message()["content"] == '{"name": "Bob"}'
    assert choice.finish_reason("stop") == "stop"


def test_a_cut_call_says_length(served: Any) -> None:
    choice = answer(served.chat("x", tools=[WEATHER], tool_choice="required", max_tokens=40))
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", ["", f"{ONE}\n"])
def test_an_answer_that_stops_within_a_call_says_stop(served: Any, before: str, stream: bool) -> None:
    """`tool_calls` would have a client run a call whose arguments are half there."""
    second = ONE.replace("Oslo", "Rome")
    for script, stop in ((before + second.partition("Rome")[0], None), (before + second, "Rome")):
        served.engine.script = script
        response = served.chat("How warm?", tools=TOOLS, stream=stream, stop=stop)
        choice = whole_of(chunks_of(response))[0] if stream else answer(response)
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["tool_calls"][-1]["function"]["arguments"] == '{"place": "'


def test_calls_and_results_are_part_of_a_conversation(served: Any) -> None:
    call = {"id": "call1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call1", "content": [{"type": "text", "text": "noon"}]},
        {"role": "assistant", "content": "Noon.", "tool_calls": []},
        {"role": "user", "content": "Sure?"},
    ]
    response = served.http.post("/v1/chat/completions", json={"model": "base", "messages": messages})
    response.raise_for_status()
    prompt = bytes(served.engine.requests[-1].prompt).decode()
    assert "<assistant><calls now><tool>" in prompt


def test_a_template_without_calls_is_told() -> None:
    model = FakeChatModel(codecs={"base": ByteCodec(tool_format=None)})
    with TestClient(create_app(model)) as http:
        body = {"model": "base", "messages": [{"role": "user", "content": "x"}], "tools": [NOW]}
        error = http.post("/v1/chat/completions", json=body)
        assert error.status_code == 400
        assert "chat template" in error.json()["error"]["message"]
        assert http.post("/v1/chat/completions", json={**body, "tool_choice": "none"}).status_code == 200


def test_the_openai_client_reads_calls(served: Any) -> None:
    served.engine.script = TWO
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "How warm?"}]
        whole = client.chat.completions.create(model="base", messages=messages, tools=TOOLS)
        called = whole.choices[0].message.tool_calls or []
        assert [call.type == "function" and call.function.name for call in called] == ["weather", "now"]
        with client.chat.completions.stream(model="base", messages=messages, tools=TOOLS) as stream:
            final = stream.get_final_completion().choices[0]
        assert final.finish_reason == "tool_calls"
        assert json.loads((final.message.tool_calls or [])[0].function.arguments) == {
            "place": "Oslo",
            "hot": False,
        }
