"""Judged steps are read in TRL's shape; what cannot be used is told with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptune.config.columns import StepColumns
from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Data
from ptune.data.label_splits import read_splits
from ptune.data.shapes.labelled import open_labelled
from ptune.errors import DataError

GOOD = {"prompt": "What is 3 + 4 + 1?", "completions": ["3 + 4 = 7", "7 + 1 = 9"], "labels": [True, False]}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "steps.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def labels(folder: Path, *rows: dict[str, Any], **task: Any) -> list[Any]:
    splits = read_splits(Data(files=(write(folder, *rows),), validation=()), ProcessReward(**task), 0)
    splits.check()
    return [placed.row for split in splits.rows.values() for placed in split]


def test_steps_and_verdicts_are_read(tmp_path: Path) -> None:
    found = labels(tmp_path, *({**GOOD, "prompt": f"{number}", "source": "a"} for number in range(4)))
    assert {row.input for row in found} == {(str(n), "3 + 4 = 7", "7 + 1 = 9") for n in range(4)}
    assert {row.label for row in found} == {(1, 0)}
    assert found[0].columns == {"source": "a"}


@pytest.mark.parametrize("verdicts", [[1, 0], ["True", "false"], ["1", "0"], [1.0, "0.0"], '[true, "false"]'])
def test_verdicts_are_written_in_several_ways(tmp_path: Path, verdicts: Any) -> None:
    path = write(tmp_path, {**GOOD, "labels": verdicts})
    file = open_labelled(path, ProcessReward())
    file.check()
    assert [row.label for row in file.rows] == [("right", "wrong")]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    row = {"question": "?", "steps": ["a"], "ok": [True]}
    task = ProcessReward(columns=StepColumns(prompt="question", completions="steps", labels="ok"))
    assert len(open_labelled(write(tmp_path, row), task).rows) == 1
    with pytest.raises(
        DataError, match="no column 'prompt' and no column 'completions' and no column 'labels'"
    ):
        open_labelled(write(tmp_path, row), ProcessReward())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [True]}, r"has 2 completions and 1 labels: each step needs one"),
        ({"labels": [True, None]}, r"labels\[1\] is None: it must be true, for a right step, or false"),
        ({"labels": [True, "so"]}, r"labels\[1\] is 'so': it must be true"),
        ({"labels": None}, "has no labels"),
        ({"labels": True}, "labels is bool True, not a list"),
        ({"completions": []}, "completions is empty"),
        ({"completions": "3 + 4"}, "completions is '3 \\+ 4', not a list in JSON"),
        ({"completions": ["a", 7]}, r"completions\[1\] is int, not text"),
        ({"completions": ["a", "  "]}, r"completions\[1\] is empty"),
        (
            {"completions": ["a", "b\nc"]},
            r"completions\[1\] holds the step separator '\\n'.*--task.step-separator",
        ),
        ({"prompt": ""}, "prompt is empty"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = open_labelled(write(tmp_path, GOOD, GOOD | change), ProcessReward())
    assert len(file.rows) == 1
    with pytest.raises(DataError, match=message) as raised:
        file.check()
    assert str(raised.value).startswith(f"{file.name}:2: ")


def test_a_separator_that_no_step_holds(tmp_path: Path) -> None:
    row = GOOD | {"completions": ["a\nb", "c"]}
    assert len(open_labelled(write(tmp_path, row), ProcessReward(step_separator="\n\n")).rows) == 1
