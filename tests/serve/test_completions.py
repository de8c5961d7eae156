"""POST /v1/completions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types import Completion
from support import fake_chat_model
from support.fake_chat_model import wait_until

from ptune.engine.decoder.request import NO_TOKEN, Token


def choices(response) -> list[dict[str, Any]]:
    response.raise_for_status()
    return response.json()["choices"]


def chunks(response) -> list[dict[str, Any]]:
    *data, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(line) for line in data]


def test_answers_with_openais_object(served):
    response = served.complete("abc", max_tokens=100, logprobs=1)
    completion = Completion.model_validate(response.json(), strict=True)
    assert completion.choices[0].text == "base heard: abc"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 3
    assert response.headers["x-ptune-adapter"] == "base@0123456789ab"


def test_sixteen_tokens_unless_told(served):
    assert choices(served.complete("abcdefgh"))[0]["text"] == "base heard: abcd"


@pytest.mark.parametrize(
    ("prompt", "heard"),
    [
        ("ab", ["ab"]),
        ([97, 98], ["ab"]),
        (["ab", "cd"], ["ab", "cd"]),
        ([[97], [98, 99]], ["a", "bc"]),
        (["a", [98]], ["a", "b"]),
    ],
)
def test_prompts_of_each_kind(served, prompt, heard):
    answers = choices(served.complete(prompt, max_tokens=100))
    assert [answer["text"] for answer in answers] == [f"base heard: {text}" for text in heard]
    assert [answer["index"] for answer in answers] == list(range(len(heard)))


def test_stream_interleaves_choices_that_add_up(served):
    served.engine.delay_s = 0.001
    response = served.complete(
        ["ab", "cd"], max_tokens=100, stream=True, stream_options={"include_usage": True}
    )
    *pieces, last = chunks(response)
    texts = ["", ""]
    for piece in pieces:
        [choice] = piece["choices"]
        texts[choice["index"]] += choice["text"]
        assert piece["usage"] is None
    assert texts == ["base heard: ab", "base heard: cd"]
    assert last["choices"] == []
    assert last["usage"] == served.complete(["ab", "cd"], max_tokens=100).json()["usage"]


def test_scoring_a_prompt(served):
    """As evaluation harnesses ask: echo, one token, log-probabilities of all."""
    [choice] = choices(served.complete([104, 105], max_tokens=1, echo=True, logprobs=1))
    assert choice["text"] == "hib"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["h", "i", "b"]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5]
    assert logprobs["top_logprobs"] == [None, {"i": -0.5, "a": -98.0}, {"b": -0.5, "a": -98.0}]
    assert logprobs["text_offset"] == [0, 1, 2]


def test_scoring_only(served):
    [choice] = choices(served.complete("hi", max_tokens=0, echo=True, logprobs=0))
    assert (choice["text"], choice["finish_reason"]) == ("hi", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5]
    [choice] = choices(served.complete("hi", max_tokens=0))
    assert (choice["text"], choice["logprobs"]) == ("", None)


def test_the_token_that_ends_is_scored_too(served):
    """Harnesses drop the last entry, which must therefore be a generated token, whatever it is."""
    [choice] = choices(served.complete("x", max_tokens=100, logprobs=0))
    assert choice["logprobs"]["tokens"][-1] == "<end>"
    assert choice["text"] == "base heard: x"


def test_a_token_within_a_character_begins_where_that_does(served: Any) -> None:
    """A token is a byte here. Each part of a character was counted as one."""
    [choice] = choices(served.complete("é☠x", max_tokens=100, echo=True, logprobs=0))
    assert choice["text"] == "é☠xbase heard: é☠x"
    expected = [
        at for at, character in enumerate(choice["text"] + "!") for _ in range(len(character.encode()))
    ]
    assert choice["logprobs"]["text_offset"] == expected


@pytest.mark.parametrize("prompt", ["hi", "é☠"])
def test_scores_in_a_stream_are_those_of_the_whole(served, prompt):
    asked = {"max_tokens": 20, "echo": True, "logprobs": 1}
    whole = choices(served.complete(prompt, **asked))[0]
    pieces = [chunk["choices"][0] for chunk in chunks(served.complete(prompt, stream=True, **asked))]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [entry for piece in pieces if piece["logprobs"] for entry in piece["logprobs"][name]] == whole[
            "logprobs"
        ][name]


def test_a_stream_without_tokens_ends_like_a_whole_answer(served):
    """Nothing is asked for but the prompt's scores: what ends the sequence is no token of the vocabulary."""
    for asked in ({"echo": True, "logprobs": 1}, {"logprobs": 0}, {}):
        [whole] = choices(served.complete("hi", max_tokens=0, **asked))
        pieces = [
            chunk["choices"][0] for chunk in chunks(served.complete("hi", max_tokens=0, stream=True, **asked))
        ]
        assert "".join(piece["text"] for piece in pieces) == whole["text"]
        assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == ["length"]


def test_a_stream_that_its_deadline_cuts_ends_with_what_there_is(served, monkeypatch):
    def cut(*_: object) -> Iterator[Token]:
        yield from (Token(97), Token(98), Token(NO_TOKEN, finish="length"))

    monkeypatch.setattr(fake_chat_model, "_answer", cut)
    pieces = [chunk["choices"][0] for chunk in chunks(served.complete("hi", stream=True))]
    assert [(piece["text"], piece["finish_reason"]) for piece in pieces] == [
        ("a", None),
        ("b", None),
        ("", "length"),
    ]


def test_if_one_prompt_finds_no_place_none_runs(served):
    served.engine.max_waiting = 2
    served.engine.go_on.clear()
    response = served.complete(["a", "b", "c"])
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert not served.service.running
    wait_until(lambda: served.engine.running == 0)  # though nothing may go on
    assert len(served.engine.requests) == len(served.engine.cancelled) == 2


def test_suffix_is_refused(served):
    response = served.complete("a", suffix="b")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "suffix")
