"""Pairs of answers as texts: every shape, margins, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptune.config.columns import RewardColumns
from ptune.config.recipe import Data
from ptune.config.reward_model import RewardModel
from ptune.data.shapes.rewards import RewardPair, open_rewards, read_reward_splits, reward_rows
from ptune.doctor.finding import Finding
from ptune.doctor.rewards import examine_rewards
from ptune.errors import DataError

ASKED = {"role": "user", "content": "Which?"}
GOOD, BAD = {"role": "assistant", "content": "This."}, {"role": "assistant", "content": "That one."}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def read(folder: Path, *rows: dict[str, Any], columns: RewardColumns | None = None) -> list[RewardPair]:
    file = open_rewards(write(folder / "pairs.jsonl", *rows), columns or RewardColumns())
    file.problems.raise_if_any(file.row_count)
    return [row for row in file.rows if isinstance(row, RewardPair)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"prompt": "Which?", "chosen": "This.", "rejected": "That one."},
        {"instruction": "Which?", "chosen": "This.", "rejected": "That one."},
        {"messages": [ASKED], "chosen": GOOD, "rejected": BAD},
    ],
)
def test_every_shape_gives_the_same_texts(row: dict[str, Any], tmp_path: Path) -> None:
    (pair,) = read(tmp_path, row)
    assert (pair.anchor, pair.answers, pair.margin) == ("Which?", ("This.", "That one."), 0.0)


def test_of_several_messages_each_stands_after_its_role(tmp_path: Path) -> None:
    earlier = {"role": "assistant", "content": "Ask away."}
    calls = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}],
    }
    (pair,) = read(tmp_path, {"prompt": [ASKED, earlier, ASKED], "chosen": [GOOD], "rejected": [calls]})
    assert pair.anchor == "user: Which?\n\nassistant: Ask away.\n\nuser: Which?"
    assert pair.answers[0] == "This."
    assert '"name": "look"' in pair.answers[1]


def test_margins_are_numbers_of_a_column(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert [one.margin for one in read(tmp_path, {**row, "margin": 1.5}, {**row, "margin": "2"}, row)] == [
        1.5,
        2.0,
        0.0,
    ]
    named = RewardColumns().changed({"margin": "gap", "chosen": "good"})
    (pair,) = read(tmp_path, {"prompt": "a", "good": "b", "rejected": "c", "gap": 3}, columns=named)
    assert (pair.margin, pair.answers) == (3.0, ("b", "c"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}, "margin is 'much'"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": float("nan")}, "margin is nan"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "inf"}, "margin is 'inf'"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 10**400}, "margin is 1000"),
        ({"prompt": "a", "chosen": " ", "rejected": "c"}, "chosen is empty"),
        ({"prompt": "a", "chosen": "b"}, "no known shape"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_in_words(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


def test_pairs_of_one_prompt_are_held_out_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{number % 5}", "chosen": f"{number}", "rejected": "no"} for number in range(20)]
    data = Data(files=(write(tmp_path / "pairs.jsonl", *rows),))
    splits = read_reward_splits(data, 0, RewardColumns())
    splits.check()
    train, held = ({row.anchor for row in reward_rows(splits, name)} for name in ("train", "validation"))
    assert train.isdisjoint(held)
    assert (len(train), len(held)) == (4, 1)


def findings(folder: Path, rows: list[dict[str, Any]], held: list[dict[str, Any]]) -> dict[str, Finding]:
    data = Data(
        files=(write(folder / "train.jsonl", *rows),), validation=(write(folder / "validation.jsonl", *held),)
    )
    return {finding.rule: finding for finding in examine_rewards(data, RewardModel(), 0).findings}


def test_the_doctor_finds_what_would_train_a_wrong_model(tmp_path: Path) -> None:
    def pair(number: int, chosen: str, rejected: str) -> dict[str, Any]:
        return {"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected}

    words = ("Yes, of course.", "No.")
    even = [pair(number, words[number % 2], words[1 - number % 2]) for number in range(60)]
    held = [pair(number, "Maybe.", "Never.") for number in range(100, 104)]
    assert findings(tmp_path, even, held) == {}
    found = findings(tmp_path, [*even, pair(61, "Yes.", "Yes."), even[3]], [*held[:1], even[0]])
    assert set(found) == {"equal-answers", "duplicates", "validation-overlap"}
    assert found["equal-answers"].severity == "error"
    assert found["equal-answers"].place is not None
    assert found["equal-answers"].place.number == 61
    assert "line 4 (1 copies" in found["duplicates"].message
    turned = findings(tmp_path, [*even, pair(61, "Yes.", "No."), pair(61, "No.", "Yes.")], held)
    assert set(turned) == {"contradicting-pairs"}
    assert turned["contradicting-pairs"].place is not None
    assert turned["contradicting-pairs"].place.number == 62
    assert "line 61 with the other one as the better" in turned["contradicting-pairs"].message
    long = [pair(number, "A long answer.", "Short.") for number in range(50)]
    assert "the longer one in 100%" in findings(tmp_path, long, held)["one-length-wins"].message
