"""Ollama's API: the `ollama` package, unmodified, against a real socket; what is refused, and how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from starlette.testclient import TestClient
from support.error_forms import said
from support.fake_chat_model import FakeChatModel, FakeEngine, wait_until
from support.fake_encoder_model import FakeEncoderModel
from support.raw_http import exchanged, statuses
from support.thinking_codec import ANSWER, FORM, Thinks

from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_app, create_encoder_app
from ptune_serve.service import Settings

USER: Any = [{"role": "user", "content": "ahoy ☠"}]
HEARD = "pirate heard: ahoy ☠"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo"}}\n</tool_call>'


@pytest.fixture
def client(served: Any) -> Iterator[ollama.Client]:
    with ollama.Client(host=served.url, timeout=20) as client:
        yield client


@pytest.mark.parametrize("model", ["pirate", "pirate:latest"])
def test_a_chat(client: ollama.Client, served: Any, model: str) -> None:
    answer = client.chat(model=model, messages=[{"role": "system", "content": "Be brief."}, *USER])
    assert (answer.message.role, answer.message.content) == ("assistant", HEARD)
    assert (answer.model, answer.done, answer.done_reason) == (model, True, "stop")
    assert served.prompt == "<system>Be brief.<user>ahoy ☠"
    assert answer.prompt_eval_count == len(served.engine.requests[-1].prompt)
    assert answer.eval_count == len(HEARD.encode()) + 1
    durations = (answer.load_duration, answer.prompt_eval_duration, answer.eval_duration)
    assert all(isinstance(duration, int) and duration >= 0 for duration in durations)
    assert answer.total_duration == sum(duration or 0 for duration in durations)


def test_a_stream(client: ollama.Client) -> None:
    *parts, last = client.chat(model="pirate", messages=USER, stream=True)
    assert "".join(part.message.content or "" for part in parts) == HEARD
    assert len(parts) > 10  # as it is written
    assert not any(part.done for part in parts)
    assert (last.done, last.done_reason, last.message.content) == (True, "stop", "")
    assert last.eval_count == len(HEARD.encode()) + 1
    assert last.total_duration


def test_a_generation(client: ollama.Client, served: Any) -> None:
    answer = client.generate(model="pirate", prompt="ahoy ☠", system="Be brief.")
    assert (answer.response, answer.done_reason) == (HEARD, "stop")
    assert served.prompt == "<system>Be brief.<user>ahoy ☠"
    *parts, last = client.generate(model="pirate", prompt="ahoy ☠", stream=True)
    assert "".join(part.response or "" for part in parts) == HEARD
    assert (last.done, last.response) == (True, "")


def test_a_model_is_loaded_already(client: ollama.Client, served: Any) -> None:
    assert client.chat(model="pirate").done_reason == "load"
    assert client.generate(model="pirate", keep_alive="5m").done_reason == "load"
    assert not served.engine.requests
    with pytest.raises(ollama.ResponseError, match="no model 'llama3' here"):
        client.chat(model="llama3")


def test_options_reach_the_engine(client: ollama.Client, served: Any) -> None:
    options = {
        "temperature": 0.5, "top_k": 7, "top_p": 0.75, "min_p": 0.25, "seed": 3, "repeat_penalty": 1.5,
        "presence_penalty": 0.5, "frequency_penalty": 0.25, "num_predict": 7, "stop": ["heard"], "num_ctx": 4096,
    }  # fmt: skip
    answer = client.chat(model="pirate", messages=USER, options=options)
    assert (answer.message.content, answer.done_reason) == ("pirate ", "length")
    request = served.engine.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 7, 0.75, 0.25)
    assert (sampling.seed, sampling.repetition_penalty) == (3, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, 0.25)
    assert request.max_tokens == 7
    for as_much_as_fits in (-1, 4096):
        client.chat(model="pirate", messages=USER, options={"num_predict": as_much_as_fits})
        assert served.engine.requests[-1].max_tokens == served.engine.context - len(request.prompt)
    stopped = client.chat(model="pirate", messages=USER, options={"stop": ["heard"]})
    assert (stopped.message.content, stopped.done_reason) == ("pirate ", "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_answered(client: ollama.Client, served: Any, stream: bool) -> None:
    def weather(place: str) -> str:
        """Tells the weather.

        Args:
            place: Where.
        """
        return "4 C"

    served.engine.scripts = {"weather?": f"Let me see.\n{CALL}"}
    question = {"role": "user", "content": "weather?"}
    chat: Any = client.chat  # its types know no bool
    answers = chat(model="pirate", messages=[question], tools=[weather], stream=stream)
    messages = [part.message for part in answers] if stream else [answers.message]
    assert served.prompt.startswith("<tool weather>")
    assert "".join(message.content or "" for message in messages) == "Let me see."
    [call] = [call for message in messages for call in message.tool_calls or ()]
    assert (call.function.name, call.function.arguments) == ("weather", {"place": "Oslo"})
    turns: list[Any] = [
        question,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "content": "4 C", "tool_name": "weather"},
        {"role": "user", "content": "so?"},
    ]
    after = client.chat(model="pirate", messages=turns, tools=[weather])
    assert served.prompt.endswith("<assistant>Let me see.<calls weather><tool>4 C<user>so?")
    assert after.message.content == "pirate heard: so?"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ended", [{"num_predict": 60}, {"stop": ["Oslo"]}, {}])
def test_a_call_that_is_cut_is_none(
    client: ollama.Client, served: Any, ended: dict[str, Any], stream: bool
) -> None:
    """A client runs whatever call it gets: of this one it would not get the arguments."""
    served.engine.script = f"{CALL}\n{CALL}"[: None if ended else -30]
    ended = {"num_predict": len(CALL) + 60} if "num_predict" in ended else ended
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    chat: Any = client.chat  # its types know no bool
    answers = chat(model="pirate", messages=USER, tools=[tool], options=ended, stream=stream)
    parts = [*answers] if stream else [answers]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    whole = [] if "stop" in ended else [{"place": "Oslo"}]
    assert [call.function.arguments for call in calls] == whole
    assert parts[-1].done_reason == ("length" if "num_predict" in ended else "stop")


def test_an_answer_has_a_form(client: ollama.Client) -> None:
    answer = client.chat(model="pirate", messages=USER, format={"enum": ["yes"]})
    assert answer.message.content == '"yes"'
    options = {"seed": 1, "num_predict": 40}
    assert (client.generate(model="pirate", prompt="x", format="json", options=options).response or "")[
        0
    ] == "{"


def test_log_probabilities(client: ollama.Client) -> None:
    whole = client.chat(model="pirate", messages=USER, logprobs=True, top_logprobs=2)
    scored = [one.token for one in whole.logprobs or ()]
    assert scored[:6] == [*"pirate"]
    assert len(scored) == len(HEARD.encode())
    assert len((whole.logprobs or [])[0].top_logprobs or ()) == 2
    parts = client.generate(model="pirate", prompt="ahoy ☠", stream=True, logprobs=True)
    assert [one.token for part in parts for one in part.logprobs or ()] == scored


def test_what_is_thought_is_a_field_of_its_own() -> None:
    engine = FakeEngine(script=ANSWER)
    model = FakeChatModel(engine, codecs={"base": Thinks(reasoning=FORM)})
    with TestClient(create_app(model)) as http:

        def post(path: str = "/api/chat", **fields: Any) -> Any:
            body = {"model": "base", "stream": False, **fields}
            body |= {"messages": USER} if path == "/api/chat" else {"prompt": "?"}
            response = http.post(path, json=body)
            assert response.status_code == 200, response.text
            return response

        message = post().json()["message"]
        assert message == {"role": "assistant", "content": "It is 42.", "thinking": "Six times seven."}
        generated = post("/api/generate").json()
        assert (generated["response"], generated["thinking"]) == ("It is 42.", "Six times seven.")
        lines = [json.loads(line) for line in post(stream=True).text.splitlines()]
        assert "".join(line["message"].get("thinking", "") for line in lines) == "Six times seven."
        post(think=False)
        assert b"<enable_thinking=False>" in bytes(engine.requests[-1].prompt)
        post(think=True)
        assert b"<enable_thinking=True>" in bytes(engine.requests[-1].prompt)
        post(think="low")
        assert b"<reasoning_effort=low>" in bytes(engine.requests[-1].prompt)
        refused = http.post("/api/chat", json={"model": "pirate", "messages": USER, "think": True})
        assert (refused.status_code, refused.json()) == (
            400,
            {"error": "think: the chat template of this model marks no reasoning; leave it out"},
        )


def test_models(client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == ["base:latest", "pirate:latest", "devil:latest"]
    for name in ("pirate", "pirate:latest"):
        shown = client.show(name)
        assert shown.modelinfo is not None
        assert shown.modelinfo["ptune.context_length"] == 512
        assert shown.capabilities == ["completion", "tools"]
        assert shown.details is not None
        assert shown.details.parent_model == "base"
    with pytest.raises(ollama.ResponseError, match="no model 'llama3' here"):
        client.show("llama3")


def test_the_version_is_one_of_ollama(served: Any) -> None:
    told = served.http.get("/api/version").json()
    assert [int(part) >= 0 for part in told["version"].split(".")] == [True, True, True]


def test_a_narrow_key_sees_its_own_models() -> None:
    from ptune_serve.access.keys import Key, plain

    narrow = Key("narrow", plain("narrow").digest, frozenset({"infer"}), frozenset({"devil"}))
    with TestClient(create_app(FakeChatModel(), Settings(api_keys=ApiKeys((narrow,))))) as http:
        http.headers["authorization"] = "Bearer narrow"
        assert [model["name"] for model in http.get("/api/tags").json()["models"]] == ["devil:latest"]
        body = {"model": "pirate:latest", "messages": USER}
        assert said(http.post("/api/chat", json=body).json()) == "no model 'pirate' here; served: devil"


def test_models_of_an_encoder_can_be_listed() -> None:
    with TestClient(create_encoder_app(FakeEncoderModel())) as http:
        names = [model["name"] for model in http.get("/api/tags").json()["models"]]
        assert "sentiment:latest" in names
        assert http.post("/api/show", json={"model": "sentiment"}).json()["capabilities"] == []
        told = http.post("/api/chat", json={"model": "sentiment", "messages": USER})
        assert told.status_code == 404
        assert "this server serves" in said(told.json())


def test_errors_are_the_packages_own(client: ollama.Client, served: Any) -> None:
    with pytest.raises(ollama.ResponseError, match="at most 512") as refused:
        client.chat(model="pirate", messages=[{"role": "user", "content": "x" * 600}])
    assert refused.value.status_code == 400
    served.engine.max_waiting = 0
    with pytest.raises(ollama.ResponseError) as full:
        client.chat(model="pirate", messages=USER)
    assert full.value.status_code == 429


def test_an_error_in_a_stream_is_raised(client: ollama.Client, served: Any) -> None:
    served.engine.failure = "step"
    with pytest.raises(ollama.ResponseError, match="engine failed"):
        list(client.chat(model="pirate", messages=USER, stream=True))


def test_who_goes_away_is_not_answered_further(client: ollama.Client, served: Any) -> None:
    served.engine.may_end = 0
    stream = client.chat(model="pirate", messages=USER, stream=True)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: served.engine.cancelled and not served.service.running)


TOOL = {"type": "function", "function": {"name": "now"}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}
RESULT = {"role": "tool", "content": "noon", "tool_name": "now"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role: "),
    ({"messages": "hi"}, "messages: "),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: "),
    (
        {"messages": [{"role": "user", "content": "hi", "images": ["aGk="]}]},
        "messages[0].images[0]: an image must be in a format of image/png",
    ),
    (
        {"messages": [{"role": "user", "content": "hi", "made_up": 1}]},
        "messages[0].made_up: there is no such field",
    ),
    ({"messages": [*USER, RESULT]}, "messages[1]: the answer before it has no tool call of 'now'"),
    ({"messages": [*USER, CALLED, RESULT, RESULT]}, "messages[3]: the answer before it has no tool call"),
    ({"messages": [*USER, CALLED, {**RESULT, "tool_name": "x"}]}, "has no tool call of 'x'"),
    ({"tools": [TOOL, TOOL]}, "tools: two tools have the same name"),
    ({"tools": [{"type": "function"}]}, "tools[0]: function: "),
    ({"format": "xml"}, 'format: must be "json" or a JSON schema'),
    ({"format": {"not": {}}}, "format: "),
    ({"options": {"temperature": "hot"}}, "options.temperature: "),
    ({"options": {"num_predict": 0}}, "options.num_predict: must be a number of tokens"),
    ({"options": {"mirostat": 2}}, "mirostat is not supported yet"),
    ({"options": {"temprature": 1}}, "temprature: there is no such field; did you mean temperature?"),
    ({"think": "much"}, "think"),
    ({"think": False, "options": "none"}, "options: "),
    ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
    ({"stream": "yes"}, "stream: "),
    ({"truncate": True}, "truncate is not supported yet"),
    ({"max_tokens": 5}, "max_tokens: there is no such field"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_is_said_in_one_sentence(served: Any, fields: dict[str, Any], message: str) -> None:
    response = served.http.post("/api/chat", json={"model": "base", "messages": USER, **fields})
    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    assert message in said(response.json())
    assert "\n" not in said(response.json())


@pytest.mark.parametrize("field", [{"raw": True}, {"suffix": "x"}, {"context": [1]}, {"template": "x"}])
def test_what_a_generation_cannot_do_is_refused_by_name(served: Any, field: dict[str, Any]) -> None:
    response = served.http.post("/api/generate", json={"model": "base", "prompt": "hi", **field})
    assert response.status_code == 400
    assert said(response.json()).startswith(f"{next(iter(field))} is not supported yet")


CHAT = '{"model": "pirate", "messages": [{"role": "user", "content": "ahoy ☠"}], "stream": false}'
FORM_TYPE = "application/x-www-form-urlencoded"  # what `curl -d` says
BROWSERS = [
    {"origin": "http://elsewhere.example"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site"},
    {"Sec-Fetch-Mode": "no-cors"},
]


@pytest.mark.parametrize("content_type", [FORM_TYPE, "text/plain", ""])
def test_the_lines_of_ollamas_documentation_work(served: Any, content_type: str) -> None:
    headers = {"content-type": content_type}
    answer = served.http.post("/api/chat", content=CHAT.encode(), headers=headers)
    assert answer.json()["message"]["content"] == HEARD
    answer = served.http.post(
        "/api/generate", content=b'{"model": "pirate", "prompt": "hi", "stream": false}', headers=headers
    )
    assert answer.json()["response"] == "pirate heard: hi"
    assert served.http.post("/api/show", content=b'{"model": "pirate"}', headers=headers).status_code == 200
    assert "not valid JSON" in said(served.http.post("/api/chat", content=b"a=b", headers=headers).json())


def test_a_body_without_a_content_type_is_read(served: Any) -> None:
    sent = CHAT.encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\nConnection: close\r\n\r\n"
    assert statuses(exchanged(served.url, head.encode() + sent)) == [200]


@pytest.mark.parametrize("mark", BROWSERS)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/show"])
def test_a_browser_must_say_that_it_sends_json(served: Any, path: str, mark: dict[str, str]) -> None:
    refused = served.http.post(path, content=CHAT.encode(), headers={"content-type": FORM_TYPE, **mark})
    assert refused.status_code == 415
    assert said(refused.json()) == "send `Content-Type: application/json`"
    assert not served.engine.requests
    headers = {"content-type": "application/json", **mark}
    assert served.http.post(path, content=CHAT.encode(), headers=headers).status_code != 415


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/tokenize"])
def test_other_apis_still_take_json_alone(served: Any, path: str) -> None:
    refused = served.http.post(path, content=CHAT.encode(), headers={"content-type": FORM_TYPE})
    assert refused.status_code == 415


def test_a_line_of_the_documentation_is_read_where_vectors_are_asked_for() -> None:
    client = TestClient(create_encoder_app(FakeEncoderModel()))
    sent = b'{"model": "nobody", "input": "a text"}'
    read = client.post("/api/embed", content=sent, headers={"content-type": FORM_TYPE})
    assert (read.status_code, "nobody" in said(read.json())) == (404, True)
    marked = {"content-type": FORM_TYPE, "origin": "null"}
    assert client.post("/api/embed", content=sent, headers=marked).status_code == 415


def test_every_option_of_the_package_is_known() -> None:
    from ptune_serve.ollama.schemas import Options

    assert set(ollama.Options.model_fields) <= {*Options.model_fields, *Options.not_built}
