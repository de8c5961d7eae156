"""The server over a real engine: choices, forms and tool calls of a model that knows nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient
from openai.types.chat import ChatCompletion
from support import tiny_models
from support.tiny_bundle import add_codec, make

import ptune
from ptune_serve.app import create_app

HERMES = Path(__file__).parents[1] / "codecs" / "agents" / "hermes.jinja"
USER = [{"role": "user", "content": "How warm is it in Oslo?"}]
PARAMETERS = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "maxLength": 4},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["place", "days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    tiny = make(tmp_path_factory.mktemp("served") / "bundle")
    add_codec(tiny.folder, HERMES.read_text(encoding="utf-8"))
    model = ptune.load(tiny.folder, threads=1, max_rows=6, replay_golden=False)
    with TestClient(create_app(model)) as client:
        yield client
    model.close()


def choices(http: TestClient, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "wide", "messages": USER, "max_tokens": 20, **fields}
    response = http.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    ChatCompletion.model_validate(response.json(), strict=True)
    found: list[dict[str, Any]] = response.json()["choices"]
    return found


def test_a_choice_depends_on_its_seed_alone(http: TestClient) -> None:
    alone = [choices(http, seed=5 + number)[0]["message"] for number in range(3)]
    assert len({message["content"] for message in alone}) == 3
    with ThreadPoolExecutor(4) as pool:
        noise = [pool.submit(choices, http, model="narrow", temperature=1.5) for _ in range(4)]
        together = choices(http, seed=5, n=3)
        for answer in noise:
            answer.result()
    assert [choice["message"] for choice in together] == alone


def test_beams_among_other_requests(http: TestClient) -> None:
    """As the model alone finds them; in a stream the text comes whole, but it comes."""
    asked = {"num_beams": 4, "length_penalty": 2.0}
    model = http.app.state.service.model  # type: ignore[attr-defined]
    alone = model.chat(USER, adapter="wide", max_tokens=20, **asked)
    with ThreadPoolExecutor(4) as pool:
        noise = [pool.submit(choices, http, model="narrow") for _ in range(4)]
        [choice] = choices(http, **asked)
        for answer in noise:
            answer.result()
    assert (choice["message"]["content"], choice["finish_reason"]) == (alone.text, alone.finish)
    assert alone.text != choices(http, temperature=0)[0]["message"]["content"], "greedy finds something else"
    body = {"model": "wide", "messages": USER, "max_tokens": 20, "stream": True, **asked}
    events = http.post("/v1/chat/completions", json=body).text.split("\n\n")[:-2]
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content", "") for delta in deltas) == alone.text
    refused = http.post("/v1/chat/completions", json={**body, "num_beams": 7})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "num_beams")


def test_json_among_other_requests(http: TestClient) -> None:
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}}
    with ThreadPoolExecutor(4) as pool:
        noise = [pool.submit(choices, http, model="narrow") for _ in range(3)]
        for choice in choices(http, **asked, n=4, seed=1, max_tokens=200, logprobs=True, top_logprobs=2):
            jsonschema.validate(json.loads(choice["message"]["content"]), PARAMETERS)
            assert choice["finish_reason"] == "stop"
        for answer in noise:
            answer.result()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_required_call_is_read_and_can_be_answered(http: TestClient, seed: int) -> None:
    asked = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": seed}
    [choice] = choices(http, **asked, max_tokens=200)
    message = choice["message"]
    assert (choice["finish_reason"], message["content"]) == ("tool_calls", None)
    [call] = message["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), PARAMETERS)
    result = {"role": "tool", "tool_call_id": call["id"], "content": "4 C"}
    assert choices(http, messages=[*USER, message, result], tools=TOOLS)


def test_tokens_of_a_conversation_with_calls_are_those_of_training(http: TestClient) -> None:
    """Rendered by the server as transformers renders it for training."""
    call = {
        "id": "call1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"place": "Oslo", "days": 1}'},
    }
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call1", "content": "4 C"},
    ]
    told = http.post("/tokenize", json={"messages": messages, "tools": TOOLS}).json()
    as_data = json.loads(json.dumps(messages))
    as_data[1]["tool_calls"][0]["function"]["arguments"] = {"place": "Oslo", "days": 1}
    expected = tiny_models.tokenizer().apply_chat_template(
        as_data,
        TOOLS,
        chat_template=HERMES.read_text(encoding="utf-8"),
        add_generation_prompt=True,
        return_dict=False,
    )
    assert told["tokens"] == expected
    assert http.post("/detokenize", json={"tokens": expected}).json()[
        "prompt"
    ] == tiny_models.tokenizer().decode(expected)
