"""What the tab Data says: of what is missing, of errors before a training, and of rows that get no chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptune.begin.look import Look
from ptune.begin.starts import Word
from ptune.errors import DataError
from ptune.studio.data import said, shown
from ptune.studio.data.choice import Choice


@pytest.mark.parametrize(
    ("files", "task", "words", "unsaid"),
    [
        ([], None, ("Choose files", "learn"), ()),
        (["a.csv"], None, ("learn",), ("files",)),
        ([], "chat", ("files",), ("learn",)),
    ],
)
def test_only_what_is_missing_is_asked_for(
    files: list[str], task: str | None, words: tuple[str, ...], unsaid: tuple[str, ...]
) -> None:
    told = said.missing(files, task)
    assert told is not None
    assert all(word in told for word in words)
    assert not any(word in told for word in unsaid)


def test_nothing_is_missing() -> None:
    assert said.missing(["a.csv"], "chat") is None


def test_errors_are_counted_and_said_before_a_training() -> None:
    findings = [{"severity": severity} for severity in ("error", "warning", "error")]
    assert said.errors_in({"findings": findings}) == 2
    assert said.errors_in({}) == 0
    assert "2 errors" in said.before_training(2)
    assert "an error" in said.before_training(1)


TALK = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("task", "row", "columns", "told"),
    [
        ("chat", {"prompt": "a", "completion": "b"}, {}, True),
        ("chat", {"question": "a", "answer": "b"}, {"prompt": "question", "completion": "answer"}, True),
        ("chat", {"prompt": TALK, "completion": "b"}, {}, False),
        ("chat", {"messages": TALK, "prompt": "a", "completion": "b"}, {}, False),
        ("chat", {"text": "a"}, {}, False),
        ("classify", {"prompt": "a", "completion": "b"}, {}, False),
    ],
)
def test_rows_without_a_chat_template_are_told_of(
    task: Word, row: dict[str, Any], columns: dict[str, str], told: bool
) -> None:
    found = Look(Path("a"), "JSONL", tuple(row), (row,))
    note = said.without_template(found, Choice(("a",), task, columns))
    assert (note is not None and "no chat template" in note) == told


def test_the_task_that_was_chosen_is_the_one_that_is_told() -> None:
    found = Look(
        Path("a"),
        "JSONL",
        ("question", "answer"),
        ({"question": "a", "answer": "b"},),
        task="embed",
        numbers=(1,),
    )
    assert "likely for <b>embed</b>" in shown.look(found, "a")
    chosen = shown.look(found, "a", "chat")
    assert "<b>chat</b>" in chosen
    assert "embed" not in chosen
    assert "likely" not in chosen


def test_a_number_and_a_message_are_parted_in_text_too() -> None:
    place = {"file": "mail.csv", "line": 42}
    finding = {
        "severity": "error",
        "place": place,
        "count": 9,
        "others": [57, 60],
        "message": "comment is empty",
    }
    assert "mail.csv, line 42</code>, 57, 60 and 6 more <p>" in shown.findings({"findings": [finding]})
    both = finding | {"count": 2, "others": [57]}
    assert "line 42</code>, 57 <p>" in shown.findings({"findings": [both]})


def test_a_defect_of_the_whole_data_is_not_counted_in_files() -> None:
    """ "all files and 2 more labels with fewer than 5 examples" reads as two more files."""
    finding: dict[str, Any] = {
        "severity": "warning",
        "place": None,
        "count": 3,
        "others": [],
        "message": "labels with few examples",
    }
    told = shown.findings({"findings": [finding]})
    assert "more" not in told
    assert "the whole data" in told


def test_a_file_that_is_called_otherwise_is_told_of() -> None:
    uploaded = [Path("up/rows.csv"), Path("up/other.csv"), Path("up/a b.csv")]
    assert said.renamed(uploaded, ["data/rows-2.csv", "data/other.csv", "data/a b.csv"]) == [
        "rows.csv is here already with other content, so this file is called rows-2.csv."
    ]


def test_a_refused_file_is_named_without_where_it_was_put() -> None:
    path = Path("/up/load/letter.pdf")
    told = said.refused(path, DataError("is a PDF", file=str(path)))
    assert told == "letter.pdf: is a PDF. It was not kept."


def test_chats_are_previewed_as_messages() -> None:
    talk = [{"role": "user", "content": "<hi>"}, {"role": "assistant", "content": "hello"}]
    found = Look(Path("a"), "JSONL", ("messages",), ({"messages": talk},), task="chat", numbers=(1,))
    html = shown.look(found, "a")
    assert "<b>user</b> &lt;hi&gt;" in html
    assert "<b>assistant</b> hello" in html
    assert "role" not in html
