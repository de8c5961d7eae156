"""The shapes of judged answers that other tools write, what is refused, and answers to other prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_models

from ptune.backbone.load import load_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Backbone, Data
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examples import dataset
from ptune.data.examples.judged import judged_examples
from ptune.data.read import open_file
from ptune.data.shapes.by_task import shapes_of
from ptune.data.shapes.conversations import Completion, Conversation, Judged, recognise
from ptune.data.shapes.judged import JUDGED, labels_of
from ptune.data.shapes.preferences import PREFERENCES
from ptune.data.source import open_source
from ptune.errors import DataError

ASKED = {"role": "user", "content": "Which is larger?"}
GOOD = {"role": "assistant", "content": "The sun."}
SYSTEM = {"role": "system", "content": "Be brief."}

SAME: dict[str, dict[str, Any]] = {
    "TRL": {"prompt": [SYSTEM, ASKED], "completion": [GOOD], "label": True},
    "text after messages": {"prompt": [SYSTEM, ASKED], "completion": "The sun.", "label": 1},
    "messages": {"messages": [SYSTEM, ASKED, GOOD], "label": "true"},
    "LLaMA-Factory, ShareGPT": {
        "conversations": [
            {"from": "human", "value": ASKED["content"]},
            {"from": "gpt", "value": GOOD["content"]},
        ],
        "system": "Be brief.",
        "kto_tag": True,
    },
    "LLaMA-Factory, Alpaca": {
        "instruction": ASKED["content"],
        "output": GOOD["content"],
        "system": "Be brief.",
        "kto_tag": "True",
    },
}


def read(folder: Path, *rows: dict[str, Any], task: UnpairedPreference | None = None) -> list[Any]:
    path = folder / "judged.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    file = open_file(path)
    source = open_source(file, None, shapes_of(task or UnpairedPreference()))
    problems = file.problems()
    found = [sample.conversation for sample in source.samples(problems)]
    problems.raise_if_any(len(rows))
    return found


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> ChatCodec:
    return load_codec(Backbone(model=str(tiny_models.build(tmp_path_factory.mktemp("model")))))


def answer_of(example: Any, codec: ChatCodec) -> str:
    return codec.decode([i for i, t in zip(example.ids, example.targets, strict=True) if t])


@pytest.mark.parametrize("name", sorted(SAME))
def test_every_shape_says_the_same(name: str, codec: ChatCodec, tmp_path: Path) -> None:
    row = SAME[name]
    column = "label" if "label" in row else "kto_tag"
    bad = {**row, column: False}
    found, undesirable = read(tmp_path, row, bad)
    assert isinstance(found, Judged)
    assert isinstance(found.answered, Conversation)
    assert (found.desirable, undesirable.desirable) == (True, False)
    assert [(m["role"], m["content"]) for m in found.answered.messages] == [
        (m["role"], m["content"]) for m in (SYSTEM, ASKED, GOOD)
    ]
    assert isinstance(found.prompt, tuple)
    assert [m["content"] for m in found.prompt] == ["Be brief.", "Which is larger?"]
    (example,) = found.examples(codec, "assistant")
    assert "The sun." in answer_of(example, codec)
    assert "larger" not in answer_of(example, codec)


def test_of_several_turns_the_last_answer_is_judged(codec: ChatCodec, tmp_path: Path) -> None:
    again = {"role": "user", "content": "Sure?"}
    (found,) = read(tmp_path, {"messages": [ASKED, GOOD, again, GOOD], "label": False})
    assert [m.get("train", True) for m in found.answered.messages] == [False, False, False, True]


def test_texts_without_a_template_and_other_names(codec: ChatCodec, tmp_path: Path) -> None:
    task = UnpairedPreference().with_columns({"prompt": "q", "completion": "a", "label": "thumb"})
    (found,) = read(tmp_path, {"q": "Two and two is", "a": " five.", "thumb": "0", "id": 3}, task=task)
    assert found == Judged(Completion("Two and two is", " five."), False)
    assert found.prompt == "Two and two is"


@pytest.mark.parametrize(("good", "bad"), [(1.0, 0.0), ("1.0", "0.0"), (1, 0), ("TRUE", " false ")])
def test_a_verdict_may_be_a_number(good: Any, bad: Any, tmp_path: Path) -> None:
    """1.0 and 0.0 are what pandas makes of a column that once lacked a value."""
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (good, bad)]
    assert [one.desirable for one in read(tmp_path, *rows)] == [True, False]


@pytest.mark.parametrize("label", [0.5, "2.0", "yes"])
def test_other_verdicts_are_refused(label: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be true, for a desirable answer, or false"):
        read(tmp_path, {"prompt": "a", "completion": "b", "label": label})


def test_a_pair_is_two_answers(codec: ChatCodec, tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": f"{number}?"}], "chosen": "yes", "rejected": "no"}
        for number in range(12)
    ]
    assert labels_of(read(tmp_path, *rows)[0]) == (True, False)
    made = dataset.load(Data(files=(tmp_path / "judged.jsonl",)), UnpairedPreference(), codec, seed=3)
    train, validation = (judged_examples(made, split, 3) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (22, 2)
    assert [one.desirable for one in train] == [True, False] * 11
    assert {answer_of(one.own, codec).split("<")[0] for one in train if one.desirable} == {"yes"}
    assert [one.number for one in train[3:9:2]] == [3, 5, 7]


def test_all_answers_to_a_prompt_are_held_out_together(codec: ChatCodec, tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": f"{number % 5}?"}], "completion": f"a{number}", "label": True}
        for number in range(40)
    ]
    read(tmp_path, *rows)
    made = dataset.load(Data(files=(tmp_path / "judged.jsonl",)), UnpairedPreference(), codec, seed=3)
    prompts = [{one.ids[: one.targets.index(True)] for one in part} for part in (made.train, made.validation)]
    assert prompts[0].isdisjoint(prompts[1])
    assert (len(made.train), len(made.validation)) == (32, 8)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.integers(0, 3))
def test_a_mismatched_answer_belongs_to_another_prompt(prompts: list[int], seed: int) -> None:
    import numpy as np

    from ptune.codecs.chat import Example
    from ptune.data.examples.judged import JudgedExamples
    from ptune.data.examples.store import spooled

    made = [
        Example((10 + prompt, 20, 100 + number, 7), (False, False, True, True))
        for number, prompt in enumerate(prompts)
    ]
    answers = JudgedExamples(spooled(made), np.ones(len(made), bool), "train", 3, seed)
    for number, answer in enumerate(answers):
        assert answer.own == made[number]
        assert answer.mismatched.ids[:2] == made[number].ids[:2]
        assert answer.mismatched.targets == (False, False, True)  # cut to three tokens
        other = answer.mismatched.ids[2] - 100
        assert other != number
        assert prompts[other] != prompts[number] or len(set(prompts)) == 1
    if len(set(prompts)) == len(prompts):
        assert sorted(answer.mismatched.ids[2] for answer in answers) == [one.ids[2] for one in made]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi", "completion": "Ho", "label": "good"}, "label is 'good': it must be true"),
        ({"prompt": "Hi", "completion": "Ho", "label": 2}, "label is 2"),
        ({"prompt": "Hi", "completion": "Ho", "label": None}, "no label"),
        ({"messages": [GOOD, ASKED], "label": True}, "the last message is not an answer"),
        ({"messages": [ASKED, GOOD]}, "known are messages \\+ label"),
    ],
)
def test_a_row_without_a_verdict_is_refused_in_words(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


def test_every_shape_is_tried_here() -> None:
    tried = {recognise(row, JUDGED).name.rpartition(", ")[0] for row in SAME.values()}
    known = {shape.name.rpartition(", ")[0] for shape in JUDGED if shape not in PREFERENCES}
    assert tried == known


def test_labels_are_part_of_what_is_hashed(codec: ChatCodec, tmp_path: Path) -> None:
    hashes = []
    for label in (True, False):
        rows = [
            {"prompt": [{"role": "user", "content": f"{number}?"}], "completion": "a", "label": label}
            for number in range(4)
        ]
        read(tmp_path, *rows)
        made = dataset.load(Data(files=(tmp_path / "judged.jsonl",)), UnpairedPreference(), codec, seed=3)
        hashes.append(made.summary["train"]["sha256"])
        assert made.labels["train"].tolist() == [label] * 3
    assert hashes[0] != hashes[1]
