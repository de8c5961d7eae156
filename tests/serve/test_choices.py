"""Several choices of one prompt, and tokens beside texts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion
from support.serve_streams import chunks_of, whole_of


def test_a_chat_with_several_choices(served: Any) -> None:
    response = served.chat("ahoy", n=3, seed=5)
    completion = ChatCompletion.model_validate(response.json(), strict=True)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert {choice.message.content for choice in completion.choices} == {"pirate heard: ahoy"}
    assert [request.sampling.seed for request in served.engine.requests] == [5, 6, 7]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len("<user>ahoy")
    assert completion.usage.completion_tokens == 3 * (len("pirate heard: ahoy") + 1)


def test_choices_without_a_seed_have_none(served: Any) -> None:
    served.chat("ahoy", n=2).raise_for_status()
    assert [request.sampling.seed for request in served.engine.requests] == [None, None]


def test_streamed_choices_are_those_of_the_whole(served: Any) -> None:
    served.engine.delay_s = 0.001
    asked = {"n": 3, "logprobs": True, "top_logprobs": 1, "return_token_ids": True}
    whole = served.chat("ahoy ☠", **asked).json()
    chunks = chunks_of(served.chat("ahoy ☠", **asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["usage"] == whole["usage"]
    for streamed, choice in zip(whole_of(chunks), whole["choices"], strict=True):
        assert streamed == {**choice, "logprobs": choice["logprobs"]["content"]}
    order = [chunk["choices"][0]["index"] for chunk in chunks[:-1]]
    assert order[:3] == [0, 1, 2]
    assert order[3:] != sorted(order[3:])  # they come side by side


def test_token_ids_in_a_stream(served: Any) -> None:
    chunks = chunks_of(served.chat("é", stream=True, return_token_ids=True))
    assert bytes(chunks[0]["prompt_token_ids"]).decode() == "<user>é"
    assert all("prompt_token_ids" not in chunk for chunk in chunks[1:])
    [choice] = whole_of(chunks)
    assert choice["token_ids"] == [*b"pirate heard: \xc3\xa9", 256]
    whole = served.chat("é", return_token_ids=True).json()
    assert whole["choices"][0]["token_ids"] == choice["token_ids"]
    assert whole["prompt_token_ids"] == chunks[0]["prompt_token_ids"]


def test_no_token_ids_unless_asked(served: Any) -> None:
    assert "token_ids" not in served.chat("é", stream=True).text
    assert "token_ids" not in served.chat("é").text


def test_completions_with_several_choices(served: Any) -> None:
    asked = {"n": 2, "best_of": 2, "max_tokens": 100, "seed": 1, "return_token_ids": True}
    whole = served.complete(["ab", "cd"], **asked).json()
    completion = Completion.model_validate(whole, strict=True)
    assert [choice.text[-2:] for choice in completion.choices] == ["ab", "ab", "cd", "cd"]
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert [request.sampling.seed for request in served.engine.requests] == [1, 2, 1, 2]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 4
    assert [bytes(choice["prompt_token_ids"]) for choice in whole["choices"]] == [b"ab", b"ab", b"cd", b"cd"]
    *data, _ = [
        line.removeprefix("data: ")
        for line in served.complete(["ab", "cd"], **asked, stream=True).text.split("\n\n")
        if line
    ]
    streamed: list[dict[str, Any]] = [{"text": "", "token_ids": []} for _ in range(4)]
    for [piece] in (json.loads(line)["choices"] for line in data):
        streamed[piece["index"]]["text"] += piece["text"]
        streamed[piece["index"]]["token_ids"] += piece["token_ids"]
        streamed[piece["index"]].setdefault("prompt_token_ids", piece.get("prompt_token_ids"))
    for found, choice in zip(streamed, whole["choices"], strict=True):
        assert found == {name: choice[name] for name in found}


def test_echo_is_no_part_of_the_token_ids(served: Any) -> None:
    [choice] = served.complete("hi", max_tokens=1, echo=True, logprobs=0, return_token_ids=True).json()[
        "choices"
    ]
    assert (choice["text"], choice["token_ids"], choice["prompt_token_ids"]) == ("hib", [*b"b"], [*b"hi"])


def test_too_many_answers_are_refused(served: Any) -> None:
    error = served.complete(["a"] * 65, n=2).json()["error"]
    assert (error["param"], "130" in error["message"] or "128" in error["message"]) == ("n", True)


@pytest.mark.parametrize("stream", [False, True])
def test_if_one_choice_finds_no_place_none_runs(served: Any, stream: bool) -> None:
    served.engine.max_waiting = 2
    served.engine.go_on.clear()
    assert served.chat("a", n=3, stream=stream).status_code == 429
    served.engine.go_on.set()
