"""Cells of text that are the JSON of messages or of texts are read as such, and no others."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ptune.config.columns import PairColumns
from ptune.config.reinforcement import Reinforcement
from ptune.data.shapes.conversations import SHAPES, Completion, Conversation, Preferred, recognise
from ptune.data.shapes.json_text import messages_or_text, texts_or_text
from ptune.data.shapes.pairs import open_pairs
from ptune.data.shapes.preferences import PREFERENCES
from ptune.data.shapes.prompts import Asked, prompt_shapes
from ptune.errors import DataError

ASKED = [{"role": "user", "content": "Which items?"}]
ANSWER = [{"role": "assistant", "content": "None."}]
LIST = '[{"name": "x", "count": 2}]'


@pytest.mark.parametrize(
    "text", [LIST, "[]", "[1, 2]", "[{x for x in y}]", "[{", '[{"role": "admin"}]', "[x](y)"]
)
def test_answers_that_are_lists_stay_texts(text: str) -> None:
    assert messages_or_text(text, "chosen") == text
    found = recognise(("prompt", "chosen", "rejected"), PREFERENCES).converted(
        {"prompt": "Which?", "chosen": text, "rejected": "No."}
    )
    assert found == Preferred(Completion("Which?", text), Completion("Which?", "No."))


def test_messages_as_json_text_are_messages() -> None:
    row = {"prompt": json.dumps(ASKED), "completion": json.dumps(ANSWER)}
    found = recognise(row, SHAPES).converted(row)
    assert found == Conversation(({**ASKED[0], "train": False}, *ANSWER))
    asked = recognise(("prompt",), prompt_shapes(Reinforcement())).converted({"prompt": json.dumps(ASKED)})
    assert asked == Asked(tuple(ASKED))  # type: ignore[comparison-overlap]
    pair = {"prompt": json.dumps(ASKED), "chosen": json.dumps(ANSWER), "rejected": "All."}
    chosen = recognise(pair, PREFERENCES).converted(pair)
    assert isinstance(chosen, Preferred)
    assert chosen.chosen == found


@pytest.mark.parametrize("value", [repr(ASKED), json.dumps(ASKED)[:-1], "[ {'from': 'human', 'value': 'x'}]"])
def test_messages_that_are_not_json_are_refused(value: str) -> None:
    row = {"prompt": value, "completion": "None."}
    with pytest.raises(DataError, match="prompt is text that begins like messages, but not JSON"):
        recognise(row, SHAPES).converted(row)


def test_negatives_may_be_a_list_in_csv(tmp_path: Path) -> None:
    cells: list[Any] = ['["one", "two"]', "[1] a note", "", "[]", '[{"a": 1}]']
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("anchor", "positive", "negatives"), *(("q", "p", cell) for cell in cells)]
        )
    found = open_pairs(tmp_path / "a.csv", PairColumns())
    assert not found.problems.count
    assert [row.negatives for row in found.rows] == [("one", "two"), ("[1] a note",), (), (), ('[{"a": 1}]',)]
    assert texts_or_text("[not json") == "[not json"
