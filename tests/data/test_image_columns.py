"""Images in a column beside a conversation: as TRL, LLaVA and LLaMA-Factory hold them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.data.images.columns import pictured
from ptune.data.shapes.conversations import recognise
from ptune.errors import DataError

ANSWER = {"role": "assistant", "content": "A cat."}
BARE = {"type": "image"}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def image(name: Any) -> dict[str, Any]:
    return {"type": "image", "image": name}


def content_of(row: dict[str, Any]) -> Any:
    conversation: Any = recognise(row).converted(row)
    return conversation.messages[0]["content"]


def test_trls_parts_take_the_images_in_order() -> None:
    asked = {"role": "user", "content": [BARE, text("or"), BARE, text("?")]}
    row = {"messages": [asked, ANSWER], "images": ["a.png", {"bytes": b"x", "path": None}]}
    assert content_of(row) == [image("a.png"), text("or"), image({"bytes": b"x", "path": None}), text("?")]


def test_llavas_marks_take_the_image() -> None:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    assert content_of({"conversations": turns, "image": "a.png"}) == [image("a.png"), text("What is it?")]
    turns[0]["value"] = "First <image> then <image>"
    row = {"conversations": turns, "images": ["a.png", "b.png"]}
    assert content_of(row) == [text("First "), image("a.png"), text(" then "), image("b.png")]


def test_without_places_they_stand_before_the_first_question() -> None:
    row = {"messages": [{"role": "user", "content": "What?"}, ANSWER], "image": "a.png"}
    assert content_of(row) == [image("a.png"), text("What?")]


def test_a_mark_without_images_is_text() -> None:
    row = {"messages": [{"role": "user", "content": "What does <image> mean?"}, ANSWER], "images": []}
    assert content_of(row) == "What does <image> mean?"


@pytest.mark.parametrize(
    ("content", "images", "told"),
    [
        ("<image> and <image>", ["a.png"], "holds 1 images, and the questions have places for 2"),
        ([BARE], ["a.png", "b.png"], "holds 2 images, and the questions have places for 1"),
        ("What?", [5], "must name images"),
    ],
)
def test_what_does_not_fit_is_refused(content: Any, images: Any, told: str) -> None:
    row = {"messages": [{"role": "user", "content": content}, ANSWER], "images": images}
    with pytest.raises(DataError, match=told):
        content_of(row)
    with pytest.raises(DataError, match="no question"):
        pictured({"image": "a.png"}, [ANSWER])


NAMES = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4)
PARTS = st.lists(st.sampled_from([BARE, text("a"), text("b")]), max_size=6)


@given(NAMES, st.lists(PARTS, min_size=1, max_size=3))
def test_every_image_is_placed_once_and_in_order_or_the_row_is_refused(
    names: list[str], questions: list[list[dict[str, Any]]]
) -> None:
    messages = [one for parts in questions for one in ({"role": "user", "content": parts}, ANSWER)]
    places = sum(part == BARE for parts in questions for part in parts)
    if places not in (0, len(names)):
        with pytest.raises(DataError):
            pictured({"images": names}, messages)
        return
    found = [
        part for one in pictured({"images": names}, messages) if one != ANSWER for part in one["content"]
    ]
    assert [part["image"] for part in found if part["type"] == "image"] == names
    assert [part for part in found if part["type"] == "text"] == [
        part for parts in questions for part in parts if part["type"] == "text"
    ]
