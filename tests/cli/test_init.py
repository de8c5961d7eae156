"""ptune init: five questions, or options."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from ptune.begin.look import look_at
from ptune.begin.starts import STARTS
from ptune.cli import main
from ptune.config.classification import TextClassification
from ptune.config.preference import Preference
from ptune.config.recipe import Recipe
from ptune.config.translation import Translation


class Terminal(io.StringIO):
    """Lines that somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return tmp_path


def test_five_questions(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mail.csv").write_text("text,label\nhello,good\nbye,bad\n")
    monkeypatch.setattr("sys.stdin", Terminal("mail.csv\n\nacme/tiny\nfast\nquick\nmail\n"))
    assert main(["init"]) == 0
    recipe = Recipe.load(Path("recipe.yaml"))
    assert isinstance(recipe.task, TextClassification)  # recognised, and proposed
    assert (recipe.name, recipe.backbone.model, recipe.train.max_steps) == ("mail", "acme/tiny", 20)
    assert [str(file) for file in recipe.data.files] == ["mail.csv"]
    said = capsys.readouterr().out
    assert "one of quick, balanced, best" in said  # after "fast"
    assert "next: ptune doctor recipe.yaml" in said


@pytest.mark.parametrize("task", [word for word in STARTS if word != "images"])
def test_a_sample_that_the_recipes_doctor_takes(task: str, here: Path) -> None:
    assert main(["init", "--task", task, "--yes", "--name", "mine"]) == 0
    recipe = Recipe.load(Path("recipe.yaml"))
    assert [str(file) for file in recipe.data.files] == ["mine.jsonl"]
    rows = [json.loads(line) for line in Path("mine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 40
    assert main(["doctor", "recipe.yaml"]) == 0


def test_presets_and_memory(here: Path) -> None:
    assert main(["init", "--task", "preferences", "--preset", "best", "--memory", "8GB", "--yes"]) == 0
    recipe = Recipe.load(Path("recipe.yaml"))
    assert isinstance(recipe.task, Preference)
    assert (recipe.train.epochs, recipe.train.patience) == (3, 6)
    assert (recipe.plan.auto, recipe.plan.memory) == (True, "8GB")


def test_own_translations_are_not_read_as_the_samples_languages(here: Path) -> None:
    Path("rows.jsonl").write_text('{"source": "a", "target": "b"}\n')
    assert main(["init", "--data", "rows.jsonl", "--yes"]) == 0
    task = Recipe.load(Path("recipe.yaml")).task
    assert isinstance(task, Translation)
    assert (task.columns.named, task.source_language) == ({}, None)


def test_columns_are_named(here: Path) -> None:
    Path("mail.csv").write_text("message,mood\nhello,good\n")
    arguments = ["init", "--task", "classify", "--data", "mail.csv", "--yes"]
    assert main(arguments) == 2
    assert main([*arguments, "--columns", "text=message", "label=mood"]) == 0
    assert Recipe.load(Path("recipe.yaml")).task.columns.named == {"text": "message", "label": "mood"}


QUESTIONS = [{"question": f"What is {at}?", "answer": f"It is {at}."} for at in range(40)]
MESSAGES = [{"message": f"a message, number {at}", "mood": ("good", "bad")[at % 2]} for at in range(40)]


@pytest.mark.parametrize(
    ("rows", "asked", "task", "named"),
    [
        (QUESTIONS, None, "Chat", {"prompt": "question", "completion": "answer"}),
        (QUESTIONS, "chat", "Chat", {"prompt": "question", "completion": "answer"}),
        (QUESTIONS, "embed", "Embedding", {}),
        (QUESTIONS, "rerank", "Reranking", {}),
        (QUESTIONS, "rewarded", "Reinforcement", {}),
        (MESSAGES, None, "TextClassification", {"text": "message", "label": "mood"}),
        (MESSAGES, "classify", "TextClassification", {"text": "message", "label": "mood"}),
    ],
)
def test_rows_are_for_what_the_studio_takes_them_for_and_for_each_task_that_is_asked(
    rows: list[dict[str, str]],
    asked: str | None,
    task: str,
    named: dict[str, str],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path("rows.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["init", "--data", "rows.jsonl", "--yes", *(["--task", asked] if asked else [])]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} as {column}" in said for column, name in named.items())
    recipe = Recipe.load(Path("recipe.yaml"))
    found = look_at(path)
    if asked is None:
        assert found.named == named
    assert recipe.document()["task"]["kind"] == task
    assert recipe.task.columns.named == named
    assert main(["doctor", "recipe.yaml"]) == 0


@pytest.mark.parametrize("asked", ["tag", "preferences", "thumbs", "translate"])
def test_questions_with_answers_are_not_taken_for_other_tasks_unasked(
    asked: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    assert main(["init", "--data", "rows.jsonl", "--yes", "--task", asked]) == 2
    assert f"question, answer, and {asked} reads" in capsys.readouterr().err
    assert not Path("recipe.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say --data"),
        (["--task", "chat"], "say --data"),
        (["--yes", "--task", "images"], "--data FOLDER"),
        (["--yes", "--data", "none.jsonl"], "no such file"),
        (["--yes", "--data", "odd.csv"], "say --task"),
        (["--yes", "--columns", "text"], "column=name"),
        (["--yes", "--name", "a/b"], "name: must be a plain folder name"),
        (["--yes", "--task", "classify", "--columns", "colour=x"], "no column 'colour'"),
    ],
)
def test_what_is_missing_is_said(
    arguments: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("odd.csv").write_text("one,two\n1,2\n")
    assert main(["init", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("recipe.yaml").exists()


def test_nothing_is_replaced_unless_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--yes"]) == 0
    assert main(["init", "--yes"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["init", "--yes", "--overwrite"]) == 0


def test_a_recipe_in_the_way_is_told_before_anything_is_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text("mine")
    monkeypatch.setattr("sys.stdin", Terminal("\n\n\n\n\n"))
    assert main(["init"]) == 2
    said = capsys.readouterr()
    assert "recipe.yaml is there already" in said.err
    assert said.out == ""
    assert Path("recipe.yaml").read_text() == "mine"


def test_data_that_cannot_be_read_are_asked_for_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mail.csv").write_text("text,label\nhello,good\nbye,bad\n")
    monkeypatch.setattr("sys.stdin", Terminal("mial.csv\nmail.csv\n\n\nquick\nmail\n"))
    assert main(["init"]) == 0
    assert [str(file) for file in Recipe.load(Path("recipe.yaml")).data.files] == ["mail.csv"]
    assert "mial.csv: there is no such file" in capsys.readouterr().out


def test_the_end_of_what_is_typed_is_one_sentence(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    assert main(["init"]) == 2
    assert "--yes" in capsys.readouterr().err
