"""POST /v1/chat/completions."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from support.fake_chat_model import wait_until
from support.raw_http import connected, posted_json


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_answers_with_openais_object(served):
    response = served.chat("ahoy ☠")
    completion = ChatCompletion.model_validate(response.json(), strict=True)
    assert completion.choices[0].message.content == "pirate heard: ahoy ☠"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "pirate"
    assert abs(completion.created - time.time()) < 60
    prompt, answer = len("<user>ahoy ☠".encode()), len("pirate heard: ahoy ☠".encode()) + 1
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (
        prompt,
        answer,
        prompt + answer,
    )


def test_names_the_weights_that_answered(served):
    response = served.chat(model="pirate")
    assert response.headers["x-ptune-adapter"] == "pirate@abababababab"
    assert response.json()["system_fingerprint"] == "pirate@abababababab"
    assert served.chat(model="base", stream=True).headers["x-ptune-adapter"] == "base@0123456789ab"
    for refused in (
        served.chat("x" * 600),
        served.chat(guided_regex="("),
        served.chat(stream=True, max_tokens=600),
    ):
        assert (refused.status_code, refused.headers["x-ptune-adapter"]) == (400, "pirate@abababababab")
    assert "x-ptune-adapter" not in served.chat(model="gpt-5").headers


@pytest.mark.parametrize(
    ("model", "speaker"),
    [
        ("base", "base"),
        ("dictionary", "base"),
        ("devil", "devil"),
        ("dictionary:devil", "devil"),
        ("dictionary:base", "base"),
    ],
)
def test_model_picks_the_adapter(served, model, speaker):
    assert served.chat(model=model).json()["choices"][0]["message"]["content"].startswith(f"{speaker} heard")


def test_stream_says_the_same(served):
    response = served.chat("ahoy ☠ \u2028 end", stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert "usage" not in chunk
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "pirate heard: ahoy ☠ \u2028 end"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:]] == [None, "stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_stream_ends_with_usage_when_asked(served):
    *chunks, last = events(served.chat(stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == served.chat().json()["usage"]
    ChatCompletionChunk.model_validate(last, strict=True)


def test_max_tokens_ends_the_answer(served):
    for field in ("max_tokens", "max_completion_tokens"):
        choice = served.chat(**{field: 4}).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("pira", "length")


def test_without_a_limit_the_context_is_the_limit(served):
    served.chat("ahoy")
    request = served.engine.requests[-1]
    assert len(request.prompt) + request.max_tokens == served.engine.context


@pytest.mark.parametrize("stream", [False, True])
def test_stop_text_ends_the_answer_and_the_engines_work(served, stream):
    served.engine.may_end = 0
    response = served.chat("one two three", stop=["two", "no"], stream=stream)
    if stream:
        choices = [chunk["choices"][0] for chunk in events(response)]
        text, finish = (
            "".join(choice["delta"].get("content", "") for choice in choices),
            choices[-1]["finish_reason"],
        )
    else:
        choice = response.json()["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    assert (text, finish) == ("pirate heard: one ", "stop")
    wait_until(lambda: served.engine.cancelled)


def test_logprobs(served):
    choice = served.chat("é", logprobs=True, top_logprobs=2).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == "pirate heard: é"
    assert entries[0]["token"] == "p"
    assert entries[0]["logprob"] == -0.5
    assert [top["token"] for top in entries[0]["top_logprobs"]] == ["a", "b"]
    ChatCompletion.model_validate(served.chat("é", logprobs=True).json(), strict=True)
    assert served.chat("é").json()["choices"][0]["logprobs"] is None


def test_logprobs_in_a_stream_are_those_of_the_whole(served):
    whole = served.chat("é", logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    chunks = [
        ChatCompletionChunk.model_validate(c)
        for c in events(served.chat("é", logprobs=True, top_logprobs=1, stream=True))
    ]
    streamed = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or ()
    ]
    assert [entry.model_dump() for entry in streamed] == whole


def test_sampling_reaches_the_engine(served):
    wanted = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "frequency_penalty": -0.5,
        "presence_penalty": 1,
        "seed": -3,
    }
    served.chat(**wanted, logit_bias={"65": -100})
    sampling = served.engine.requests[-1].sampling
    assert {name: getattr(sampling, name) for name in wanted} == wanted
    assert sampling.logit_bias == {65: -100.0}


def test_null_means_the_default(served):
    served.chat(
        temperature=None, stop=None, tools=None, max_tokens=None, stream_options=None
    ).raise_for_status()
    assert math.isclose(served.engine.requests[-1].sampling.temperature, 1.0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_goes_away_ends_its_generation(served, stream, begun):
    """Also before its first token."""
    served.engine.may_end = 0
    if not begun:
        served.engine.go_on.clear()
    body = {"model": "base", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    with connected(served.url) as client:
        client.sendall(posted_json(body))
        wait_until(lambda: served.engine.requests)
        if stream and begun:
            assert client.recv(1) == b"H"
    wait_until(lambda: served.engine.cancelled and not served.service.running)


def test_two_streams_run_side_by_side(served):
    served.engine.go_on.clear()
    url, body = (
        f"{served.url}/v1/chat/completions",
        {"messages": [{"role": "user", "content": "x"}], "stream": True},
    )
    with (
        httpx.stream("POST", url, json={**body, "model": "base"}) as one,
        httpx.stream("POST", url, json={**body, "model": "devil"}) as two,
    ):
        wait_until(lambda: served.engine.running == 2)
        served.engine.go_on.set()
        texts = [one.read().decode(), two.read().decode()]
    assert all(text.endswith("data: [DONE]\n\n") for text in texts)
