"""Prompts come in the shapes of conversations; what a shape does not name goes to the rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.backbone.load import load_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.columns import PromptColumns
from ptune.config.recipe import Backbone, Data
from ptune.config.reinforcement import Reinforcement
from ptune.data.shapes.prompts import PromptData, read_prompts
from ptune.errors import DataError

ASK = [{"role": "user", "content": "How much is 2 + 2?"}]
SHAPES: dict[str, tuple[dict[str, Any], Any]] = {
    "messages": ({"messages": ASK}, ASK),
    "messages, answered": ({"messages": [*ASK, {"role": "assistant", "content": "4"}]}, ASK),
    "messages, led": (
        {"messages": ASK, "system": "Be short."},
        [{"role": "system", "content": "Be short."}, *ASK],
    ),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "How much is 2 + 2?"}]}, ASK),
    "prompt of messages": ({"prompt": ASK}, ASK),
    "question": ({"question": "How much is 2 + 2?"}, ASK),
    "Alpaca": (
        {"instruction": "How much is", "input": "2 + 2?"},
        [{"role": "user", "content": "How much is\n\n2 + 2?"}],
    ),
    "text": ({"prompt": "2 + 2 ="}, "2 + 2 ="),
}


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> ChatCodec:
    folder = tmp_path_factory.mktemp("model")
    tiny_models.build(folder, "llama")
    return load_codec(Backbone(model=str(folder)))


def read(
    folder: Path, codec: ChatCodec, rows: list[Any], *, data: dict[str, Any] | None = None, **task: Any
) -> PromptData:
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read_prompts(Data(files=(file,), **(data or {})), Reinforcement(**task), codec, 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str, codec: ChatCodec, tmp_path: Path) -> None:
    row, prompt = SHAPES[shape]
    found = read(tmp_path, codec, [{**row, "right": number} for number in range(4)])
    assert len(found.train) == 3
    assert len(found.validation) == 1
    asked = found.train[0].asked
    assert (asked.prompt if isinstance(prompt, str) else list(asked.prompt)) == prompt
    assert asked.columns["right"] in range(4)
    assert not {*row, "system"} & asked.columns.keys()
    assert asked.columns.get("answer") == ("4" if "answered" in shape else None)
    ids = codec.encode_text(prompt) if isinstance(prompt, str) else codec.encode_prompt(prompt)
    assert found.train[0].ids == tuple(ids)


def test_an_answers_own_column_comes_first(codec: ChatCodec, tmp_path: Path) -> None:
    row = {"messages": [*ASK, {"role": "assistant", "content": "It is 4."}], "answer": "4"}
    assert read(tmp_path, codec, [row] * 3).train[0].asked.columns == {"answer": "4"}


def test_a_column_of_another_name(codec: ChatCodec, tmp_path: Path) -> None:
    rows = [{"task": "2 + 2 =", "prompt": "not this"}] * 3
    found = read(tmp_path, codec, rows, columns=PromptColumns(prompt="task"))
    assert found.train[0].asked.prompt == "2 + 2 ="
    assert found.train[0].asked.columns == {"prompt": "not this"}


def test_every_row_has_every_column(codec: ChatCodec, tmp_path: Path) -> None:
    """A step's rows are any of a split: a reward is not to be without its column in one step and with it in the next."""
    rows = [
        {"prompt": f"{number} + 2 =", **({"right": number + 2} if number % 2 else {})} for number in range(9)
    ]
    found = read(tmp_path, codec, rows)
    assert found.splits["train"].columns == ["right"]
    for prompt in (*found.train, *found.validation):
        number = int(str(prompt.asked.prompt)[0])
        assert prompt.asked.columns == {"right": number + 2 if number % 2 else None}


def test_prompts_that_are_too_long(codec: ChatCodec, tmp_path: Path) -> None:
    rows = [{"prompt": "2 + 2 ="}] * 3 + [{"prompt": "and so on " * 50}]
    (tmp_path / "held.jsonl").write_text(json.dumps(rows[0]) + "\n")
    room: dict[str, Any] = {
        "max_length": 100,
        "answer_tokens": 40,
        "data": {"validation": (tmp_path / "held.jsonl",)},
    }
    with pytest.raises(
        DataError, match=r"1 of 5 prompts have more than 60 tokens \(longest \d+, .*rows.jsonl, line 4\)"
    ):
        read(tmp_path, codec, rows, **room)
    found = read(tmp_path, codec, rows, on_overlong="drop", **room)
    assert len(found.train) == 3
    assert found.summary["train"]["overlong"] == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, "has no message to answer"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": 3}, "prompt must be a list of objects"),
        ({"messages": [{"role": "assistant", "content": "4"}]}, "has no message to answer"),
        ({"messages": [{"role": "wizard", "content": "4"}]}, "line 2"),
        ({"text": "4"}, "no known shape"),
    ],
)
def test_rows_that_cannot_be_used(row: Any, said: str, codec: ChatCodec, tmp_path: Path) -> None:
    first = {key: "2 + 2 =" if isinstance(value, str | int) else ASK for key, value in row.items()}
    with pytest.raises(DataError, match=said):
        read(tmp_path, codec, [first, row, first])


def test_the_same_rows_are_the_same_data(codec: ChatCodec, tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} + 2 ="} for number in range(9)]
    one, other = read(tmp_path, codec, rows), read(tmp_path, codec, rows)
    assert one.summary == other.summary
    assert one.summary["train"]["sha256"] != read(tmp_path, codec, rows[1:]).summary["train"]["sha256"]
