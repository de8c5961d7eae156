"""Shapes of rows, recognised by their columns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ptune.data.shapes.conversations import Completion, Conversation, Preferred, recognise
from ptune.data.shapes.preferences import PREFERENCES
from ptune.errors import DataError

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def convert(row):
    return recognise(row).convert(row)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, ASSISTANT], "id": 7}, [USER, ASSISTANT]),
        ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, [USER, {**ASSISTANT, "train": False}]),
        ({"messages": [USER, {**ASSISTANT, "weight": 1}]}, [USER, ASSISTANT]),
        ({"messages": [USER, {**ASSISTANT, "train": False}]}, [USER, {**ASSISTANT, "train": False}]),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            [USER, ASSISTANT],
        ),
        (
            {
                "conversations": [{"from": "system", "value": "s"}, {"from": "user", "value": "q"}],
                "system": "t",
            },
            [SYSTEM, USER],
        ),
        ({"conversations": [{"from": "human", "value": "q"}], "system": "s"}, [SYSTEM, USER]),
        ({"conversations": [USER, ASSISTANT]}, [USER, ASSISTANT]),
        ({"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
        ({"prompt": [USER], "completion": "a"}, [USER, ASSISTANT]),
        (
            {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]},
            [USER, {**ASSISTANT, "train": False}, USER, ASSISTANT],
        ),
        ({"instruction": "q", "output": "a"}, [USER, ASSISTANT]),
        ({"instruction": "q", "input": "", "output": "a"}, [USER, ASSISTANT]),
        ({"instruction": "q", "input": None, "output": "a"}, [USER, ASSISTANT]),
        ({"instruction": "i", "input": "j", "output": "a"}, [{**USER, "content": "i\n\nj"}, ASSISTANT]),
        (
            {"instruction": "q", "output": "a", "system": "s", "history": [["q", "a"]]},
            [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
        ),
        ({"instruction": "q", "output": "a", "history": '[["q", "a"]]'}, [USER, ASSISTANT, USER, ASSISTANT]),
        ({"messages": [USER, ASSISTANT], "system": "s"}, [SYSTEM, USER, ASSISTANT]),
        ({"messages": [SYSTEM, USER, ASSISTANT], "system": "t"}, [SYSTEM, USER, ASSISTANT]),
    ],
)
def test_shapes_become_messages(row, expected):
    # On a question the flag means nothing.
    messages = [
        {k: v for k, v in m.items() if k != "train" or m["role"] == "assistant"}
        for m in convert(row).messages
    ]
    assert messages == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, "weight is 0.5"),
        ({"messages": [USER, {**ASSISTANT, "weight": "0"}]}, "weight is '0'"),
        ({"messages": [USER, ASSISTANT], "system": 7}, "system must be text"),
        ({"instruction": "q", "output": "a", "history": "{"}, "not JSON"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "history must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(row, said):
    with pytest.raises(DataError, match=said):
        convert(row)


def test_columns_that_no_shape_reads_are_known():
    assert recognise({"messages", "functions", "id"}).unread({"messages", "tools", "functions", "id"}) == [
        "functions",
        "id",
    ]


def test_prompt_and_completion_as_text_is_no_conversation():
    assert convert({"prompt": "q", "completion": "a"}) == Completion("q", "a")


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_come_along(tools):
    assert convert({"messages": [USER, ASSISTANT], "tools": tools}).tools == tuple(TOOLS)
    assert convert({"messages": [USER, ASSISTANT], "tools": None}).tools is None


def test_question_and_answer_are_the_last_ones():
    conversation = Conversation(
        (SYSTEM, USER, ASSISTANT, {**USER, "content": "and?"}, {**ASSISTANT, "content": "so"})
    )
    assert (conversation.question, conversation.answer) == ("and?", "so")


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["messages", "prompt"], "OpenAI messages"),
        (["conversations", "id"], "ShareGPT"),
        (["prompt", "completion"], "prompt and completion"),
        (["instruction", "input", "output"], "Alpaca"),
    ],
)
def test_a_shape_is_recognised_by_its_columns(columns, name):
    assert recognise(columns).name == name


def test_an_unknown_shape_lists_its_columns_and_the_shapes_known():
    with pytest.raises(
        DataError, match=r"columns are a, b; known are messages \(OpenAI messages\); .*instruction"
    ):
        recognise(["b", "a"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "q"}, "messages must be a list of objects"),
        ({"messages": [USER, "a"]}, "messages must be a list of objects"),
        (
            {"conversations": [{"from": "bot", "value": "a"}]},
            r"conversations\[0\].from is 'bot'; it must be one of human",
        ),
        ({"prompt": "q", "completion": [ASSISTANT]}, "prompt must be a list of objects"),
        ({"prompt": [USER], "completion": 1}, "completion must be a list of objects"),
        ({"instruction": 1, "output": "a"}, "instruction must be text, not int"),
        ({"instruction": "q", "input": ["x"], "output": "a"}, "input must be text, not list"),
        ({"messages": [USER], "tools": "{"}, "tools is text, but not JSON"),
        ({"messages": [USER], "tools": "[1]"}, "tools must be a list of objects"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(row, message):
    with pytest.raises(DataError, match=message):
        convert(row)


CALL = {"name": "weather", "arguments": {"place": "Oslo"}}
BARE = {"name": "weather", "description": "Of a place.", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("value", [CALL, [CALL], json.dumps(CALL), json.dumps([CALL])])
def test_tool_calls_as_llama_factory_writes_them(value: Any) -> None:
    """Its documentation's example; `tools` is JSON text there, of tools without OpenAI's outer object."""
    turns = [
        {"from": "human", "value": "Oslo?"},
        {"from": "function_call", "value": value},
        {"from": "observation", "value": "4 C"},
        {"from": "gpt", "value": "Cold."},
    ]
    found = convert({"conversations": turns, "tools": json.dumps([BARE])})
    assert list(found.messages) == [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "tool", "content": "4 C"},
        {"role": "assistant", "content": "Cold."},
    ]
    assert found.tools == ({"type": "function", "function": BARE},)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("weather(Oslo)", " must be a list of objects"),
        ('{"name": ', " is text, but not JSON"),
        ('{"arguments": {}}', " has a tool call without a name"),
        ("[]", " has no tool call"),
        (
            {"name": "weather", "arguments": "Oslo"},
            ': the arguments of weather must be an object or its JSON text, not "Oslo"',
        ),
        ({"name": "weather", "arguments": ["Oslo"]}, ": the arguments of weather must be an object"),
    ],
)
def test_tool_calls_that_are_none(value: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"conversations\[0\].value{said}"):
        convert({"conversations": [{"from": "function_call", "value": value}]})


def test_several_tool_calls_with_a_thought_before_them() -> None:
    """LLaMA-Factory takes the thought from before the calls, and puts it there again."""
    text = json.dumps({"place": "Bergen"})
    value = (
        f"<think>Both.</think>\n{json.dumps([CALL, {'name': 'weather', 'arguments': text}, {'name': 'now'}])}"
    )
    found = convert({"conversations": [{"from": "function_call", "value": value}]}).messages[0]
    assert found["content"] == "<think>Both.</think>"
    assert [call["function"] for call in found["tool_calls"]] == [
        CALL,
        {"name": "weather", "arguments": text},
        {"name": "now", "arguments": {}},
    ]


def test_an_empty_list_of_tools_is_none() -> None:
    assert convert({"messages": [USER, ASSISTANT], "tools": "[]"}).tools is None


def test_tool_calls_of_llama_factory_in_preferences() -> None:
    """Its preferences have one turn a side."""
    turns = [{"from": "human", "value": "Oslo?"}]
    sides = {
        "chosen": {"from": "function_call", "value": json.dumps(CALL)},
        "rejected": {"from": "gpt", "value": "?"},
    }
    pair = recognise([*sides, "conversations"], PREFERENCES).convert({"conversations": turns, **sides})
    assert isinstance(pair, Preferred)
    assert isinstance(pair.chosen, Conversation)
    assert pair.chosen.messages[-1]["tool_calls"] == [{"type": "function", "function": CALL}]
