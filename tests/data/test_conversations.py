"""Shapes of rows, recognised by their columns."""

from __future__ import annotations

import json

import pytest

from ptune.data.shapes.conversations import Completion, Conversation, recognise
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
