"""Which task a file is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.begin.look import look_at
from ptune.begin.recognise import check, fits
from ptune.begin.starts import STARTS, Word
from ptune.config.shipped import shipped
from ptune.errors import DataError, UsageError

ROWS: dict[str, tuple[dict[str, object], Word]] = {
    "messages": ({"messages": []}, "chat"),
    "ShareGPT": ({"conversations": []}, "chat"),
    "Alpaca": ({"instruction": "a", "input": "", "output": "b"}, "chat"),
    "raw text": ({"text": "a"}, "chat"),
    "labels": ({"text": "a", "label": "b"}, "classify"),
    "words": ({"tokens": ["a"], "tags": ["O"]}, "tag"),
    "pairs of answers": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preferences"),
    "a verdict": ({"prompt": "a", "completion": "b", "label": True}, "thumbs"),
    "passages": ({"query": "a", "positive": "b"}, "embed"),
    "questions": ({"question": "a", "answer": "b"}, "chat"),
    "translations": ({"source": "a", "target": "b"}, "translate"),
    "prompts": ({"prompt": "a", "solution": "b"}, "rewarded"),
}


@pytest.mark.parametrize(("row", "task"), ROWS.values(), ids=list(ROWS))
def test_a_file_is_recognised_by_its_columns(row: dict[str, object], task: Word, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    found = look_at(file)
    assert found.columns == tuple(row)
    assert found.task == task
    check(task, file, found.columns, found.named)


def test_csv_and_images(tmp_path: Path) -> None:
    file = tmp_path / "mail.csv"
    file.write_text("text,label\nhello,good\n")
    assert look_at(file).task == "classify"
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "a.png").write_bytes(b"")
    assert (look_at(tmp_path).task, look_at(tmp_path).columns) == ("images", None)


def test_columns_of_another_name_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "mail.csv"
    file.write_text("message,mood\nhello,good\n")
    columns = look_at(file).columns
    assert look_at(file).task is None
    with pytest.raises(UsageError, match=r"message, mood.*--columns text=message"):
        check("classify", file, columns, ())
    check("classify", file, columns, ("text",))


@pytest.mark.parametrize(("text", "said"), [("", "empty"), ("not json\n", "no row that can be read")])
def test_a_file_without_rows_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        look_at(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        look_at(tmp_path / "none.jsonl")


def test_every_start_is_a_shipped_recipe() -> None:
    assert {start.recipe for start in STARTS.values()} <= set(shipped())
    assert not fits("images", ["image", "label"])  # a folder, not a table
