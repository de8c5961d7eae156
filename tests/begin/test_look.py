"""A first look at a file: its columns, and which of them are text and label."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.begin.columns_meant import columns_meant, label_and_text
from ptune.begin.look import LOOKED_AT, look_at
from ptune.begin.starts import Word
from ptune.errors import DataError

MOODS = ("glad", "sad")


def _csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_texts_and_labels_are_known_by_their_values(tmp_path: Path) -> None:
    rows = [
        {"when": f"2024-01-{day:02}", "mood": MOODS[day % 2], "message": f"a message, number {day}"}
        for day in range(1, 29)
    ]
    found = look_at(_csv(tmp_path / "tweets.csv", rows))
    assert (found.task, found.named) == ("classify", {"text": "message", "label": "mood"})
    assert found.columns == ("when", "mood", "message")
    assert (found.format, len(found.rows), found.more) == ("CSV", 28, False)


def test_empty_cells_do_not_hide_which_column_is_which(tmp_path: Path) -> None:
    rows = [{"comment": f"a comment, number {at}", "verdict": MOODS[at % 2]} for at in range(20)]
    for at in (3, 9):
        rows[at]["verdict"] = ""
    for at in (1, 2, 4):
        rows[at]["comment"] = ""
    found = look_at(_csv(tmp_path / "reviews.csv", rows))
    assert (found.task, found.named) == ("classify", {"text": "comment", "label": "verdict"})


def test_questions_with_answers_are_for_chat_first(tmp_path: Path) -> None:
    found = look_at(
        _csv(tmp_path / "faq.csv", [{"question": f"What is {at}?", "answer": "A."} for at in "ab"])
    )
    assert (found.task, found.named) == ("chat", {"prompt": "question", "completion": "answer"})


@pytest.mark.parametrize(
    ("word", "row", "named"),
    [
        (
            "classify",
            {"comment": "a long comment", "verdict": "good"},
            {"text": "comment", "label": "verdict"},
        ),
        ("chat", {"ask": "why so?", "reply": "because"}, {"prompt": "ask", "completion": "reply"}),
        ("chat", {"prompt": "why?", "completion": "so"}, {}),
        ("images", {"a": "b"}, {}),
    ],
)
def test_a_task_that_was_chosen_has_its_columns_proposed(
    word: Word, row: dict[str, str], named: dict[str, str]
) -> None:
    rows = [row, row | {next(iter(row)): "another of them"}, row | {list(row)[-1]: "other"}]
    assert columns_meant(word, rows, list(row)) == named


def test_usual_names_need_no_naming(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) + "\n")
    found = look_at(path)
    assert (found.task, found.named) == ("chat", {})


def test_two_columns_of_labels_are_asked_about(tmp_path: Path) -> None:
    rows = [{"a": MOODS[at % 2], "b": MOODS[at % 2], "text of it": f"number {at}"} for at in range(20)]
    found = look_at(_csv(tmp_path / "rows.csv", rows))
    assert (found.task, found.named) == (None, {})


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = _csv(
        tmp_path / "rows.csv",
        [{"text": f"number {at}", "label": MOODS[at % 2]} for at in range(LOOKED_AT + 5)],
    )
    found = look_at(path)
    assert (len(found.rows), found.more) == (LOOKED_AT, True)


def test_unreadable_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n{"text": "b"}\n')
    found = look_at(path)
    assert len(found.rows) == 2
    assert found.unreadable
    assert found.unreadable[0].startswith("line 2: ")


def test_one_fault_of_many_rows_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [
        "text,label",
        *(f"caf\xe9 {at},{MOODS[at % 2]}" if at % 2 else f"tea {at},sad" for at in range(20)),
    ]
    path.write_bytes("\n".join(lines).encode("cp1252"))
    [told] = look_at(path).unreadable
    assert told.startswith("line 3: not UTF-8")
    assert told.endswith("(and 9 more lines like it)")


def test_folders_of_images(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"")
    found = look_at(tmp_path)
    assert (found.task, found.columns, found.rows) == ("images", None, ({"label": "cat"},))
    with pytest.raises(DataError, match="is a folder without images"):
        look_at(_empty(tmp_path / "none"))


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("name", "text"), [("gone.csv", None), ("empty.csv", ""), ("bad.jsonl", "{")])
def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as raised:
        look_at(tmp_path / name)
    assert name in str(raised.value)


CELL = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=60)
    | st.lists(st.integers(), max_size=2)
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), CELL), min_size=1, max_size=30))
def test_any_rows_have_a_label_and_another_text_or_none(rows: list[dict[str, Any]]) -> None:
    columns = sorted({name for row in rows for name in row})
    named = label_and_text(rows, columns)
    if named is not None:
        assert named["text"] != named["label"]
        labels = [row.get(named["label"]) for row in rows]
        assert 2 <= len(set(map(str, labels))) < len(rows)
        assert any(isinstance(row.get(named["text"]), str) for row in rows)
