"""The `openai` package, unmodified, against a real socket."""

from __future__ import annotations

import openai
import pytest

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ahoy ☠"}]


def test_chat(client):
    completion = client.chat.completions.create(model="pirate", messages=MESSAGES, temperature=0, seed=1)
    assert completion.choices[0].message.content == "pirate heard: ahoy ☠"
    assert completion.usage.total_tokens > completion.usage.prompt_tokens


def test_chat_stream(client):
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model="devil", messages=MESSAGES, stream=True, stream_options=options
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "devil heard: ahoy ☠"
    assert chunks[-1].usage.completion_tokens == len(text.encode()) + 1


def test_chat_stream_helper(client):
    with client.chat.completions.stream(model="devil", messages=MESSAGES) as stream:
        events = [event.type for event in stream]
        answer = stream.get_final_completion().choices[0].message.content
    assert "content.delta" in events
    assert answer == "devil heard: ahoy ☠"


def test_logprobs(client):
    completion = client.chat.completions.create(
        model="base", messages=MESSAGES, logprobs=True, top_logprobs=3
    )
    first = completion.choices[0].logprobs.content[0]
    assert (first.token, len(first.top_logprobs)) == ("b", 3)


def test_completions(client):
    completion = client.completions.create(model="base", prompt=["a", "b"], max_tokens=50)
    assert [choice.text for choice in completion.choices] == ["base heard: a", "base heard: b"]
    stream = client.completions.create(model="base", prompt="a", max_tokens=50, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "base heard: a"


def test_models(client):
    assert [model.id for model in client.models.list()] == ["base", "pirate", "devil"]
    assert client.models.retrieve("devil").owned_by == "ptune"


def test_errors(client, served):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-5", messages=MESSAGES)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="base", messages=MESSAGES, functions=[{"name": "f"}])
    assert refused.value.param == "functions"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "x" * 600}], stream=True
        )
    assert too_long.value.code == "context_length_exceeded"
    served.engine.max_waiting = 0
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="base", messages=MESSAGES)


def test_an_error_in_a_stream_is_raised(client, served):
    served.engine.failure = "step"
    with pytest.raises(openai.APIError, match="engine failed"):
        list(client.chat.completions.create(model="base", messages=MESSAGES, stream=True))
