"""Conversations as training rows: which answers are targets, and that the doctor takes the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.threads import Step, answer, stepped, steps, talk
from support.tiny_images import picture
from support.tiny_vision import build

from ptune.backbone.load import load_codec
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Data
from ptune.data.shapes.conversations import Conversation, openai_conversation
from ptune.doctor.examination import examine
from ptune_serve.ui.chosen_images import data_uri
from ptune_serve.ui.thread import Call, Thread
from ptune_serve.ui.training_rows import jsonl, rows_of, sent_messages


def said(row: dict[str, Any]) -> list[tuple[str, Any, int]]:
    return [(one["role"], one["content"], one.get("weight", 1)) for one in row["messages"]]


def test_good_answers_are_targets_and_others_are_not() -> None:
    thread = talk("one", "two", "three").judged(1, 0, liked=True)
    [row] = rows_of([thread], good_only=True)
    assert said(row) == [
        ("user", "one", 1), ("assistant", "to one", 0), ("user", "two", 1), ("assistant", "to two", 1)
    ]  # fmt: skip
    [row] = rows_of([thread], good_only=False)
    assert [weight for _, _, weight in said(row)] == [1] * 6


def test_a_corrected_answer_is_a_row() -> None:
    thread = talk("one").judged(0, 0, correction="better", liked=False)
    [row] = rows_of([thread], good_only=True)
    assert said(row) == [("user", "one", 1), ("assistant", "better", 1)]


def test_what_was_thought_stays_with_the_answer_that_it_led_to() -> None:
    thread = Thread().asked("6 × 7", columns=1).answered([answer("42", thought="hm")])
    [row] = rows_of([thread], good_only=False)
    assert row["messages"][-1] == {"role": "assistant", "content": "42", "reasoning_content": "hm"}
    [row] = rows_of([thread.judged(0, 0, correction="43")], good_only=False)
    assert row["messages"][-1] == {"role": "assistant", "content": "43"}


def test_a_bad_answer_is_a_target_in_no_row() -> None:
    thread = talk("one", "two").judged(0, 0, liked=False).judged(1, 0, liked=True)
    for good_only in (True, False):
        [row] = rows_of([thread], good_only=good_only)
        assert [weight for _, _, weight in said(row)] == [1, 0, 1, 1]
    assert rows_of([talk("one").judged(0, 0, liked=False)], good_only=False) == []


def test_each_branch_is_a_row_but_no_beginning_of_another_one() -> None:
    thread = talk("one", "two")
    thread = thread.asked("2", columns=1, instead_of=1).answered([answer("to 2")])
    thread = thread.asked("3", columns=1).answered([answer("to 3", liked=False)])
    thread = thread.asked("4", columns=1, instead_of=3).answered([answer("to 4", liked=False)])
    rows = [
        [content for role, content, _ in said(row) if role == "user"]
        for row in rows_of([thread], good_only=False)
    ]
    assert rows == [["one", "two"], ["one", "2"]]  # fmt: skip


def test_two_columns_are_two_rows_and_the_same_row_comes_once() -> None:
    thread = Thread().asked("one", columns=2).answered([answer("1", system="Be brief."), answer("2")])
    rows = rows_of([thread, thread], good_only=False)
    assert [row["messages"][0]["role"] for row in rows] == ["system", "user"]
    assert [row["messages"][-1]["content"] for row in rows] == ["1", "2"]


def test_a_call_that_was_cut_off_ends_its_row() -> None:
    cut = answer("", calls=(Call(id="1", name="x", arguments='{"a'),))
    thread = talk("one").asked("two", columns=1).answered([cut])
    assert [len(row["messages"]) for row in rows_of([thread], good_only=False)] == [2]
    [row] = rows_of([thread.judged(1, 0, correction="better")], good_only=True)
    assert said(row)[-1] == ("assistant", "better", 1)


CALL = Call(id="c1", name="weather", arguments='{"city": "Paris"}')
TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'


def with_a_call() -> Thread:
    thread = Thread().asked("weather?", columns=1).answered([answer("", calls=(CALL,), tools=TOOLS)])
    return thread.asked("sunny", columns=1).answered([answer("It is sunny.", tools=TOOLS)])


def test_calls_and_their_results_are_sent_and_kept_as_openais() -> None:
    thread = with_a_call()
    [row] = rows_of([thread], good_only=False)
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": CALL.arguments}}
    assert row["messages"] == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    assert row["tools"][0]["function"]["name"] == "weather"
    assert sent_messages(thread, 0, "Be brief.") == [
        {"role": "system", "content": "Be brief."}, *row["messages"][:-1]
    ]  # fmt: skip
    corrected = thread.judged(0, 0, correction="I do not know.")
    assert [one["role"] for one in sent_messages(corrected, 0, "")] == ["user", "assistant", "user"]


def test_the_doctor_takes_the_file(tmp_path: Path) -> None:
    """Rows of texts, a correction and an image, for a model that sees."""
    codec = load_codec(Backbone(model=str(build(tmp_path / "model"))))
    picture(40, 30, seed=1).save(tmp_path / "one.png")
    seen = Thread().asked("what?", [data_uri(tmp_path / "one.png")], columns=1).answered([answer("a thing")])
    corrected = talk("one", "two").judged(0, 0, correction="better").judged(1, 0, liked=False)
    more = [talk(f"question {number}") for number in range(4)]
    rows = rows_of([seen, corrected, *more], good_only=False)
    file = tmp_path / "chats.jsonl"
    file.write_text(jsonl(rows), encoding="utf-8")
    data = Data(files=(file,), validation_share=0.2)
    examination = examine(data, Chat(max_length=256), codec, 0)
    assert len(rows) == 6
    assert not examination.has_errors, examination.findings


@settings(max_examples=100)
@given(steps, st.booleans())
def test_whatever_was_said_every_row_is_a_conversation(done: list[Step], good_only: bool) -> None:
    thread = Thread()
    for step in done:
        thread = stepped(thread, step)
    for row in rows_of([thread], good_only=good_only):
        assert isinstance(openai_conversation(row), Conversation)
        assert row["messages"][-1]["role"] == "assistant"
        assert "weight" not in row["messages"][-1]
        for call in row["messages"][-1].get("tool_calls", ()):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
