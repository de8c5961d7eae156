"""Columns that nobody has named: guesses are marked, several that fit are left open, and the same header keeps its columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ptune.begin.look import Look, look_at
from ptune.studio.data import guess
from ptune.studio.data.choice import Choice, load, save
from ptune.studio.workspace import Workspace

TOPICS, WAYS = ("delivery", "refund", "product question"), ("mail", "phone note")


def _look(path: Path, rows: list[dict[str, Any]]) -> Look:
    columns = tuple(rows[0])
    lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return look_at(path)


@pytest.fixture
def letters(tmp_path: Path) -> Look:
    """Of these, two columns could be the label."""
    rows = [
        {
            "customer": f"c{at}",
            "message": f"where is parcel {at}",
            "about": TOPICS[at % 3],
            "way": WAYS[at % 2],
        }
        for at in range(30)
    ]
    return _look(tmp_path / "letters.csv", rows)


@pytest.fixture
def moods(tmp_path: Path) -> Look:
    rows = [{"message": f"a longer text {at}", "mood": ("glad", "sad", "sad")[at % 3]} for at in range(30)]
    return _look(tmp_path / "moods.csv", rows)


def test_several_columns_that_could_be_the_label_leave_it_open(letters: Look) -> None:
    assert letters.task is None
    choice = guess.guessed(["a.csv"], letters, "classify")
    assert choice.columns == {"text": "message"}
    unsure = guess.unsure(letters, choice)
    assert "2 columns" in unsure
    assert "about (delivery, refund, product question)" in unsure
    assert "way (mail, phone note)" in unsure
    assert guess.beside(letters, choice, "label") == "choose one: about, way"
    assert guess.unnamed(letters, choice) == ["label"], "and nothing is trained so"
    chosen = replace(choice, columns={"text": "message", "label": "about"})
    assert (guess.unsure(letters, chosen), guess.unnamed(letters, chosen)) == ("", [])
    assert guess.beside(letters, chosen, "label") == "delivery, refund, product question"


def test_a_guess_is_marked_and_has_values_beside_it(moods: Look) -> None:
    choice = guess.chosen_for(["moods.csv"], moods, Choice())
    assert (choice.task, choice.columns) == ("classify", {"text": "message", "label": "mood"})
    assert guess.beside(moods, choice, "label") == "guessed, check it: sad, glad"
    assert guess.beside(moods, choice, "text") == "guessed, check it: a longer text 0, …"
    looked_at = replace(choice, guessed=())
    assert guess.beside(moods, looked_at, "label") == "sad, glad"
    assert guess.unsure(moods, choice) == ""


def test_a_file_with_the_same_header_keeps_task_and_columns(letters: Look, moods: Look) -> None:
    before = Choice(("a.csv",), "classify", {"text": "message", "label": "about"}, letters.columns or ())
    assert guess.chosen_for(["b.csv"], letters, before) == replace(before, files=("b.csv",))
    assert guess.chosen_for(["b.csv"], moods, before).columns == {"text": "message", "label": "mood"}


def test_usual_names_are_no_guess(tmp_path: Path) -> None:
    rows = [{"text": f"t{at}", "label": WAYS[at % 2], "other": TOPICS[at % 3]} for at in range(12)]
    found = _look(tmp_path / "usual.csv", rows)
    choice = guess.chosen_for(["usual.csv"], found, Choice())
    assert (choice.task, choice.columns, choice.guessed) == ("classify", {}, ())
    assert (guess.unsure(found, choice), guess.unnamed(found, choice)) == ("", [])


def test_a_choice_is_remembered_whole(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    choice = Choice(("a.csv",), "classify", {"text": "message"}, ("message", "mood"), ("text",))
    save(workspace, choice)
    assert load(workspace) == choice
