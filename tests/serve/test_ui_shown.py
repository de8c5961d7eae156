"""What the chatbots show of a conversation, its tokens and its settings: all of it harmless, and what was meant."""

from __future__ import annotations

import base64
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.threads import answer, talk

from ptune_serve.ui.answer import ScoredToken, ServerError, StreamedAnswer, grown
from ptune_serve.ui.chosen_images import LARGEST_BYTES, data_uri
from ptune_serve.ui.controls import Controls
from ptune_serve.ui.shown import Place, shown, verdicts
from ptune_serve.ui.text import measured, named
from ptune_serve.ui.thread import Call, Thread
from ptune_serve.ui.token_chances import chances


def asked_and_answered(**fields: object) -> Thread:
    return Thread().asked("q", columns=1).answered([answer("4", **fields)])


def test_what_was_thought_is_shown_apart() -> None:
    [_, (thought, place)] = shown(
        asked_and_answered(thought="<b>", thinking=True).judged(0, 0, correction=None), 0
    )[:2]
    assert thought["content"] == [{"type": "text", "text": "<\u2060b>"}]
    assert thought["metadata"] == {"title": "Thinking …", "status": "pending"}
    assert place == Place(0, "thought")
    [_, (thought, _), (said, place)] = shown(asked_and_answered(thought="hm", thought_s=3.4), 0)
    assert thought["metadata"] == {"title": "Thought for 3 s", "status": "done"}
    assert (said["content"], "metadata" in said) == ([{"type": "text", "text": "4"}], False)
    assert place == Place(0, "answer")


@pytest.mark.parametrize("arguments", ['{"a": "```"}', '{"a', "`" * 9, "~~~\n<b>"])
def test_a_call_is_folded_and_its_arguments_are_code(arguments: str) -> None:
    [_, (called, place), _] = shown(
        asked_and_answered(calls=(Call(id="1", name="<b>x", arguments=arguments),)), 0
    )
    assert called["metadata"]["title"] == "Calls <\u2060b>x"
    lines = called["content"][0]["text"].split("\n")
    ticks = lines[0].removesuffix("json")
    assert set(ticks) == {"`"}
    assert lines[-1] == ticks
    assert all(ticks not in line for line in lines[1:-1]), "nothing inside ends the code"
    assert place == Place(0, "call")


def test_a_correction_stands_in_place_of_the_answer_and_its_calls() -> None:
    thread = asked_and_answered(calls=(Call(id="1", name="x", arguments="{}"),)).judged(
        0, 0, correction="better"
    )
    assert [part["content"][0]["text"] for part, _ in shown(thread, 0)] == ["q", "better"]
    assert "corrected" in named(thread.turns[0].answers[0])


def test_thumbs_are_those_of_the_answers_shown() -> None:
    thread = talk("one", "two", "three").judged(0, 0, liked=True).judged(2, 0, liked=False)
    assert verdicts(thread, 0) == ["Like", None, "Dislike"]


class Found(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.told: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.told += [value or "" for name, value in attrs if name == "data-told"]


tokens = st.builds(
    ScoredToken,
    st.text(st.sampled_from("a<>\"'&\n\t =")),
    st.floats(-30, 0),
    st.lists(st.tuples(st.text(st.sampled_from("b<\"'")), st.floats(-30, 0)), max_size=2).map(tuple),
)


@given(st.lists(tokens, min_size=1, max_size=8))
def test_tokens_are_escaped_wherever_they_stand(scored: list[ScoredToken]) -> None:
    found = Found(chances(scored))
    assert found.tags <= {"p", "div", "span", "br"}
    assert len(found.told) == len(scored)
    for told, token in zip(found.told, scored, strict=True):
        assert f"{math.exp(token.logprob):.1%}" in told


def test_a_likely_token_has_another_colour_than_an_unlikely_one() -> None:
    html = chances([ScoredToken("a", -0.01), ScoredToken("b", -1.0), ScoredToken("c", -9.0)])
    assert [html.count(f"likely-{level}") for level in range(5)] == [1, 0, 1, 0, 1]
    assert html.count('tabindex="0"') == 1, "one stop for the Tab key"
    assert chances([]) == ""


def chunk(delta: Any, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": None, **fields}]}


def test_a_call_grows_with_its_chunks() -> None:
    first = {
        "index": 0,
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"ci'},
    }
    more = {"index": 0, "function": {"arguments": 'ty": 1}'}}
    found = StreamedAnswer()
    for delta in ({"tool_calls": [first]}, {"tool_calls": [more]}):
        found = grown(found, chunk(delta), 1.0)
    assert found.calls == (Call(id="c1", name="weather", arguments='{"city": 1}'),)
    ended = grown(found, chunk({}, finish_reason="tool_calls"), 2.0)
    assert "your next message is what the function returns" in measured(ended)


def test_log_probabilities_come_with_their_tokens() -> None:
    told = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -2.0}]}
    found = grown(StreamedAnswer(), chunk({"content": "a"}, logprobs={"content": [told]}), 1.0)
    assert found.scored == (ScoredToken("a", -0.5, (("b", -2.0),)),)


def read(tools: str = "", seed: str = "") -> object:
    return Controls.read(0.7, 1.0, 256, seed, tools, False)


def test_tools_are_openais_or_short_for_them() -> None:
    whole = [{"type": "function", "function": {"name": "now"}}]
    for written in (json.dumps(whole), json.dumps(whole[0]), '{"name": "now"}'):
        assert json.loads(read(written).tools) == whole  # type: ignore[attr-defined]
    assert read(" ").tools == read("[]").tools == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tools": "weather"}, "tools must be a JSON list"),
        ({"tools": "[1]"}, "tools must be a JSON list"),
        ({"tools": "[" * 100_000}, "tools must be a JSON list"),
        ({"seed": "many"}, "seed must be a whole number"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(fields: dict[str, str], told: str) -> None:
    with pytest.raises(ServerError, match=told):
        read(**fields)


def test_a_small_image_is_sent_as_it_is_and_a_large_one_smaller(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "small.png")
    uri = data_uri(tmp_path / "small.png")
    assert uri.startswith("data:image/png;base64,")
    Image.effect_noise((2200, 1100), 90).convert("RGBA").save(tmp_path / "large.png")
    large = data_uri(tmp_path / "large.png")
    assert large.startswith("data:image/jpeg;base64,")
    assert len(large) < 4 * LARGEST_BYTES
    for one in (uri, large):
        assert (
            Thread()
            .asked("x", [one], columns=1)
            .model_validate_json(Thread().asked("x", [one], columns=1).model_dump_json())
        )


def test_a_large_image_of_sixteen_bits_is_as_bright_as_it_was(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 30_000, (600, 600)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.png")
    head, _, content = data_uri(tmp_path / "scan.png").partition(",")
    assert head == "data:image/jpeg;base64"
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert sent.mean() == pytest.approx((values >> 8).mean(), abs=1)


@pytest.mark.parametrize("content", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG"])
def test_what_is_no_image_is_told_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cat.png").write_bytes(content)
    with pytest.raises(ServerError, match=r"cat\.png is not an image that can be read"):
        data_uri(tmp_path / "cat.png")


def test_an_image_that_unpacks_to_more_than_fits_is_refused(tmp_path: Path) -> None:
    Image.new("1", (6000, 6000)).save(tmp_path / "flat.png")
    with pytest.raises(ServerError, match="6000 × 6000 pixels"):
        data_uri(tmp_path / "flat.png")
