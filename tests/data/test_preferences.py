"""The shapes of pairs that other tools write, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.backbone.load import load_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.preference import Preference
from ptune.config.recipe import Backbone, Data
from ptune.data.examples import dataset
from ptune.data.read import open_file
from ptune.data.shapes.by_task import shapes_of
from ptune.data.shapes.conversations import Conversation, Preferred, recognise
from ptune.data.shapes.preferences import PREFERENCES, Pairs
from ptune.data.source import open_source
from ptune.errors import DataError, RecipeError

ASKED = {"role": "user", "content": "Which is larger?"}
FIRST = [{"role": "system", "content": "Be brief."}, ASKED]
GOOD, BAD = (
    {"role": "assistant", "content": "The sun."},
    {"role": "assistant", "content": "The moon, I think."},
)
TOOLS = [
    {"type": "function", "function": {"name": "size", "parameters": {"type": "object", "properties": {}}}}
]

SAME: dict[str, dict[str, Any]] = {
    "OpenAI": {
        "input": {"messages": FIRST, "tools": TOOLS, "parallel_tool_calls": True},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "TRL, explicit": {"prompt": FIRST, "chosen": [GOOD], "rejected": [BAD], "tools": TOOLS},
    "TRL, implicit": {"chosen": [*FIRST, GOOD], "rejected": [*FIRST, BAD], "tools": TOOLS},
    "UltraFeedback": {
        "prompt": ASKED["content"],
        "chosen": [*FIRST, GOOD],
        "rejected": [*FIRST, BAD],
        "score_chosen": 8.5,
        "tools": TOOLS,
    },
    "Axolotl": {"messages": FIRST, "chosen": GOOD, "rejected": BAD, "tools": TOOLS},
    "LLaMA-Factory, ShareGPT": {
        "conversations": [{"from": "human", "value": ASKED["content"]}],
        "chosen": {"from": "gpt", "value": GOOD["content"]},
        "rejected": {"from": "gpt", "value": BAD["content"]},
        "system": "Be brief.",
        "tools": json.dumps(TOOLS),
    },
    "text after messages": {
        "prompt": FIRST,
        "chosen": GOOD["content"],
        "rejected": BAD["content"],
        "tools": TOOLS,
    },
}


def read(folder: Path, *rows: dict[str, Any], task: Preference | None = None) -> list[Any]:
    path = folder / "pairs.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    file = open_file(path)
    source = open_source(file, None, shapes_of(task or Preference()))
    problems = file.problems()
    found = [sample.conversation for sample in source.samples(problems)]
    problems.raise_if_any(len(rows))
    return found


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> ChatCodec:
    return load_codec(Backbone(model=str(tiny_models.build(tmp_path_factory.mktemp("model")))))


@pytest.mark.parametrize("name", sorted(SAME))
def test_every_shape_says_the_same(name: str, codec: ChatCodec, tmp_path: Path) -> None:
    (pair,) = read(tmp_path, SAME[name])
    assert isinstance(pair, Preferred)
    better, worse = pair.chosen, pair.rejected
    assert isinstance(better, Conversation)
    assert isinstance(worse, Conversation)
    assert better.tools == worse.tools == tuple(TOOLS)
    assert [(m["role"], m["content"]) for m in better.messages] == [
        (m["role"], m["content"]) for m in (*FIRST, GOOD)
    ]
    assert worse.messages[-1]["content"] == BAD["content"]
    bare = Preferred(*(replace(side, tools=None) for side in (better, worse)))  # the template shows none
    chosen, rejected = bare.examples(codec, "assistant")
    spoken = [
        codec.decode([i for i, t in zip(one.ids, one.targets, strict=True) if t])
        for one in (chosen, rejected)
    ]
    assert ["The sun." in spoken[0], "The moon, I think." in spoken[1]] == [True, True]
    assert not any("larger" in text or "brief" in text for text in spoken)


def test_plain_texts_are_no_conversation(codec: ChatCodec, tmp_path: Path) -> None:
    (pair,) = read(tmp_path, {"prompt": "Two and two is", "chosen": " four.", "rejected": " five."})
    chosen, _ = pair.examples(codec, "assistant")
    assert chosen.ids[: len(codec.encode_text("Two and two is"))] == tuple(
        codec.encode_text("Two and two is")
    )


def test_alpaca_and_other_names_of_columns(tmp_path: Path) -> None:
    row = {
        "instruction": "Add.",
        "input": "2 2",
        "chosen": "4",
        "rejected": "5",
        "history": [["Hi", "Hello"]],
    }
    (pair,) = read(tmp_path, row)
    assert [m["content"] for m in pair.chosen.messages] == ["Hi", "Hello", "Add.\n\n2 2", "4"]
    named = Preference().with_columns({"instruction": "question", "chosen": "good", "rejected": "bad"})
    (pair,) = read(tmp_path, {"question": "Add.", "good": "4", "bad": "5", "id": 1}, task=named)
    assert (pair.question, pair.answer) == ("Add.", "4")


def test_several_turns_are_compared_from_where_they_part(tmp_path: Path, codec: ChatCodec) -> None:
    again = {"role": "user", "content": "Sure?"}
    (pair,) = read(tmp_path, {"chosen": [ASKED, GOOD, again, GOOD], "rejected": [ASKED, GOOD, again, BAD]})
    assert [m.get("train", True) for m in pair.chosen.messages] == [False, False, False, True]
    (pair,) = read(tmp_path, {"chosen": [ASKED, GOOD, again, GOOD], "rejected": [ASKED, BAD]})
    assert [m.get("train", True) for m in pair.chosen.messages] == [False, True, True, True]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": [ASKED, GOOD], "rejected": [FIRST[0], GOOD]}, "no beginning in common"),
        ({"prompt": FIRST, "chosen": [], "rejected": [BAD]}, "chosen has no message of the assistant"),
        ({"prompt": FIRST, "chosen": [GOOD], "rejected": [ASKED]}, "rejected has no message"),
        ({"prompt": FIRST, "chosen": 3, "rejected": [BAD]}, "chosen must be a list of objects"),
        (
            {"input": "Hi", "preferred_output": [GOOD], "non_preferred_output": [BAD]},
            "must be an object with",
        ),
        ({"chosen": "Human: hi", "rejected": "Human: ho"}, "chosen must be a list of objects"),
        (
            {"messages": FIRST, "chosen": {"from": "nobody", "value": "?"}, "rejected": BAD},
            "must be one of human",
        ),
        ({"messages": [*FIRST, GOOD]}, "known are input"),
        ({"prompt": "Hi", "chosen": None, "rejected": "Ho"}, "no chosen"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_in_words(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


def test_examples_come_in_pairs(codec: ChatCodec, tmp_path: Path) -> None:
    rows = [{"prompt": [ASKED], "chosen": f"{number}", "rejected": f"{number} or so"} for number in range(12)]
    read(tmp_path, *rows)
    made = dataset.load(Data(files=(tmp_path / "pairs.jsonl",)), Preference(), codec, seed=3)
    train, validation = Pairs(made.train, "train"), Pairs(made.validation, "validation")
    assert (len(train), len(validation)) == (11, 1)
    for pair in (*train, *validation):
        better, worse = (
            codec.decode([i for i, t in zip(one.ids, one.targets, strict=True) if t]) for one in pair.sides
        )
        assert worse.split()[0] == better.split()[0]
        assert "or so" in worse
    assert train.lengths == [len(pair) for pair in train]
    assert [pair.number for pair in train[2:9:3]] == [2, 5, 8]


def test_fields_that_a_loss_does_not_have_are_refused() -> None:
    import ptune

    for task, message in (
        ({"loss": "ipo", "label_smoothing": 0.1}, "ipo has none"),
        ({"loss": "robust"}, "robust needs label_smoothing"),
        ({"loss": "dop"}, "dpo"),
        ({"beta": 0}, "greater than 0"),
        ({"on_overlong": "truncate"}, "'error' or 'drop'"),
    ):
        with pytest.raises(RecipeError, match=message):
            ptune.recipe("chat_lora", task={"kind": "Preference", **task})


def test_every_shape_is_tried_here() -> None:
    rows = [*SAME.values(), {"instruction": "", "chosen": "", "rejected": ""}]
    assert {recognise(row, PREFERENCES).name for row in rows} == {shape.name for shape in PREFERENCES}


def test_all_pairs_of_a_prompt_are_held_out_together(codec: ChatCodec, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{number % 30}?", "chosen": f" yes {number}", "rejected": f" no {number}"}
        for number in range(120)
    ]
    read(tmp_path, *rows)
    made = dataset.load(Data(files=(tmp_path / "pairs.jsonl",)), Preference(), codec, seed=3)
    asked = [{one.ids[: one.targets.index(True)] for one in part} for part in (made.train, made.validation)]
    assert asked[0].isdisjoint(asked[1])
    assert (len(made.train), len(made.validation)) == (2 * 108, 2 * 12)
