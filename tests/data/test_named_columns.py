"""Files whose columns have names of their own: every task takes them by one option, and says which where it lacks some."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_images

from ptune.config.chat import Chat
from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.columns import (
    ChatColumns,
    ImageColumns,
    InteractionColumns,
    PairColumns,
    TextColumns,
    TranslationColumns,
    WordColumns,
)
from ptune.config.recipe import Data, Recipe
from ptune.config.recommendation import Recommendation
from ptune.config.tasks import SPECS
from ptune.config.translation import Translation
from ptune.data.images.labelled import open_images
from ptune.data.shapes.interactions import read_interactions
from ptune.data.shapes.labelled import LabelledFile, TextTask, open_labelled
from ptune.data.shapes.pairs import open_pairs
from ptune.errors import DataError, UsageError

from .conftest import load

MOODS = [
    {"id": "1", "message": "what a lovely day it was", "mood": "good"},
    {"id": "2", "message": "nobody answered me at all", "mood": "bad"},
    {"id": "3", "message": "the food was lovely, too", "mood": "good"},
]


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(path: Path, task: TextTask) -> list[tuple[Any, Any]]:
    return [(row.input, row.label) for row in _open(path, task).rows]


def _open(path: Path, task: TextTask) -> LabelledFile:
    file = open_labelled(path, task)
    file.check()
    return file


def test_texts_and_labels_are_those_of_the_named_columns(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", MOODS)
    task = TextClassification(columns=TextColumns(text="message", label="mood"))
    usual = [{"text": row["message"], "label": row["mood"]} for row in MOODS]
    assert labelled(path, task) == labelled(table(tmp_path / "b.csv", usual), TextClassification())
    assert _open(path, task).unread == ("id",)


def test_a_named_column_wins_over_a_usual_name(tmp_path: Path) -> None:
    rows = [{"text": "subject", "body": "the body", "label": "x"}]
    task = TextClassification(columns=TextColumns(text="body"))
    assert labelled(table(tmp_path / "a.csv", rows), task)[0][0] == "the body"


def test_a_name_that_the_file_lacks_is_not_replaced_by_a_usual_one(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [{"text": "some text", "label": "x"}])
    with pytest.raises(DataError, match=r"no column 'mesage'; there are 'text', 'label'"):
        open_labelled(path, TextClassification(columns=TextColumns(text="mesage")))


def test_missing_columns_are_proposed_by_their_contents(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_labelled(table(tmp_path / "a.csv", MOODS), TextClassification())
    assert "there are 'id', 'message', 'mood'" in str(caught.value)
    assert str(caught.value).endswith("--task.columns.text message --task.columns.label mood")


def test_a_column_whose_name_has_spaces_is_proposed_in_quotes(tmp_path: Path) -> None:
    rows = [{"text": row["message"], "my mood": row["mood"]} for row in MOODS]
    with pytest.raises(DataError, match=r"--task\.columns\.label 'my mood'$"):
        open_labelled(table(tmp_path / "a.csv", rows), TextClassification())


def test_words_and_tags(tmp_path: Path) -> None:
    rows = [
        {"words": ["to", "Oslo"], "kinds": ["O", "B-P"]},
        {"words": ["from", "Rome"], "kinds": ["O", "B-P"]},
    ]
    path = jsonl(tmp_path / "a.jsonl", rows)
    task = TokenClassification(columns=WordColumns(tokens="words", tags="kinds"))
    assert [words for words, _ in labelled(path, task)] == [("to", "Oslo"), ("from", "Rome")]
    with pytest.raises(DataError, match=r"--task\.columns\.tokens words --task\.columns\.tags kinds$"):
        open_labelled(path, TokenClassification())


def test_images_of_a_table(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        tiny_images.picture(9, 9).save(tmp_path / f"{kind}.png")
    rows = [{"picture": f"{kind}.png", "kind": kind} for kind in ("cat", "dog")]
    path = table(tmp_path / "a.csv", rows)
    found = open_images(path, ImageColumns(image="picture", label="kind"))
    assert [row.label for row in found.rows] == ["cat", "dog"]
    with pytest.raises(DataError, match=r"--task\.columns\.image picture --task\.columns\.label kind$"):
        open_images(path, ImageColumns())


def test_pairs(tmp_path: Path) -> None:
    rows = [{"ask": "who is it", "told": "it is me", "wrong": "a tree"}]
    path = table(tmp_path / "a.csv", rows)
    (pair,) = open_pairs(path, PairColumns(anchor="ask", positive="told", negative="wrong")).rows
    assert (pair.anchor, pair.positive, pair.negatives) == ("who is it", "it is me", ("a tree",))
    with pytest.raises(DataError, match=r"--task\.columns\.anchor ask --task\.columns\.positive told$"):
        open_pairs(path, PairColumns())


def test_interactions_and_their_catalogue(tmp_path: Path) -> None:
    films = table(
        tmp_path / "films.csv", [{"film": "a", "called": "Film A"}, {"film": "b", "called": "Film B"}]
    )
    seen = table(
        tmp_path / "seen.csv", [{"who": "x", "film": "b", "at": 2}, {"who": "x", "film": "a", "at": 1}]
    )
    columns = InteractionColumns(user="who", item="film", time="at", title="called")
    recipe = Recipe(task=Recommendation(items=films, columns=columns), data=Data(files=(seen,)))
    found = read_interactions(recipe)
    found.check()
    assert found.titles == {"a": "Film A", "b": "Film B"}
    assert [row.item for row in found.histories[0].kept] == ["a", "b"]
    bare = read_interactions(Recipe(task=Recommendation(items=films), data=Data(files=(seen,))))
    with pytest.raises(DataError, match=r"--task\.columns\.item film --task\.columns\.title called$"):
        bare.check()


ASKED = [{"q": f"what is number {n}", "a": f"it is number {n} indeed", "topic": "n"} for n in range(6)]


@pytest.mark.parametrize(
    ("task", "usual"),
    [
        (Chat(columns=ChatColumns(prompt="q", completion="a")), ("prompt", "completion")),
        (Chat(columns=ChatColumns(instruction="q", output="a")), ("instruction", "output")),
    ],
)
def test_prompts_and_answers(codec, tmp_path: Path, task: Chat, usual: tuple[str, str]) -> None:
    plain = [{usual[0]: row["q"], usual[1]: row["a"]} for row in ASKED]
    named = load(codec, jsonl(tmp_path / "a.jsonl", ASKED), task=task)
    expected = load(codec, jsonl(tmp_path / "b.jsonl", plain))
    assert list(named.train) == list(expected.train)
    assert named.summary["files"][0]["unread_columns"] == ["topic"]


def test_a_named_shape_wins_over_another_that_the_file_has_too(codec, tmp_path: Path) -> None:
    rows = [{**row, "messages": [{"role": "user", "content": "no"}]} for row in ASKED]
    task = Chat(columns=ChatColumns(prompt="q", completion="a"))
    found = load(codec, jsonl(tmp_path / "a.jsonl", rows), task=task)
    assert found.summary["files"][0]["shape"] == "prompt and completion"


def test_messages_under_another_name(codec, tmp_path: Path) -> None:
    rows = [
        {"dialog": [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]}
        for row in ASKED
    ]
    path = jsonl(tmp_path / "a.jsonl", rows)
    assert len(load(codec, path, task=Chat(columns=ChatColumns(messages="dialog"))).train) == 5
    with pytest.raises(DataError, match=r"as in --task\.columns\.messages dialog$"):
        load(codec, path)


def test_an_unknown_shape_of_chat_is_proposed(codec, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"as in --task\.columns\.prompt q --task\.columns\.completion a$"):
        load(codec, jsonl(tmp_path / "a.jsonl", ASKED))


def test_columns_of_two_shapes_are_refused(codec, tmp_path: Path) -> None:
    task = Chat(columns=ChatColumns(prompt="q", output="a"))
    with pytest.raises(DataError, match=r"prompt and output, which do not belong together"):
        load(codec, jsonl(tmp_path / "a.jsonl", ASKED), task=task)


def test_translations(codec, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ASKED)
    task = Translation(columns=TranslationColumns(source="q", target="a"))
    assert len(load(codec, path, task=task).train) == 5
    with pytest.raises(DataError, match=r"as in --task\.columns\.source q --task\.columns\.target a$"):
        load(codec, path, task=Translation())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_every_task_has_columns_that_can_be_named(spec: type[Any]) -> None:
    first, *others = type(spec().columns).model_fields
    assert spec().with_columns({first: "x"}).columns.named == {first: "x"}
    with pytest.raises(
        UsageError, match=rf"the task has no column 'colour': it has {', '.join([first, *others])}"
    ):
        spec().with_columns({"colour": "x"})
    if not others:
        return
    second = others[0]
    with pytest.raises(UsageError, match=rf"{first} and {second} are the same column, 'x'"):
        spec().with_columns({first: "x", second: "x"})


def test_a_recipe_with_named_columns_is_kept_as_it_was(tmp_path: Path) -> None:
    recipe = Recipe(task=TextClassification(columns=TextColumns(text="message")))
    recipe.save(tmp_path / "recipe.yaml")
    assert "columns:\n    text: message\n" in (tmp_path / "recipe.yaml").read_text()
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
