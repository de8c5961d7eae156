"""Rows as the model sees them: the tokens are transformers' own, and the marks are what the training learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.classified import encoder, reviews, tagged, write
from transformers import AutoTokenizer

from ptune.cli import main
from ptune.config.chat import Chat
from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.recipe import Backbone, Data, Recipe
from ptune.config.task_spec import TaskSpec

ANSWERS = ("Grüße, 你好 🙂", "plain", "two\nlines")


def _recipe(model: Path, data: Path, task: TaskSpec) -> Recipe:
    """A recipe that trains on a file and validates on the same."""
    return Recipe(
        task=task, backbone=Backbone(model=str(model)), data=Data(files=(data,), validation=(data,))
    )


def _seen(
    recipe: Recipe, folder: Path, capsys: pytest.CaptureFixture[str], count: int = 3
) -> list[dict[str, Any]]:
    recipe.save(folder / "recipe.yaml")
    main(["doctor", str(folder / "recipe.yaml"), "--json", "--rows", str(count)])
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == count
    return rows


def test_a_conversation_is_its_template_and_its_answers_are_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_models.build(tmp_path / "llama", "llama")
    talks = [
        [{"role": "user", "content": f"{at} – ünïcode?"}, {"role": "assistant", "content": ANSWERS[at % 3]}]
        for at in range(12)
    ]
    data = write(tmp_path / "talks.jsonl", [{"messages": talk} for talk in talks])
    recipe = _recipe(model, data, Chat())
    tokenizer = AutoTokenizer.from_pretrained(model)
    for row, talk in zip(_seen(recipe, tmp_path, capsys), talks, strict=False):
        assert "".join(text for text, _ in row["tokens"]) == tokenizer.apply_chat_template(
            talk, tokenize=False
        )
        learned = "".join(text for text, mark in row["tokens"] if mark)
        assert learned.startswith(talk[1]["content"])
        assert len(learned) - len(talk[1]["content"]) <= len("<|im_end|>"), "and the end of the turn"
        assert row["place"]["file"] == str(data)
        assert row["left_out"] == 0


def test_a_text_has_its_tokens_and_its_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = encoder(tmp_path / "model")
    texts = reviews(30)
    data = write(tmp_path / "texts.jsonl", texts)
    recipe = _recipe(model, data, TextClassification())
    tokenizer = AutoTokenizer.from_pretrained(model)
    for row, text in zip(_seen(recipe, tmp_path, capsys), texts, strict=False):
        ids = tokenizer(text["text"])["input_ids"]
        assert [token for token, _ in row["tokens"]] == tokenizer.convert_ids_to_tokens(ids)
        assert (row["label"], row["length"]) == (text["label"], len(ids))


def test_words_have_their_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = encoder(tmp_path / "model")
    words = tagged(30)
    data = write(tmp_path / "words.jsonl", words)
    recipe = _recipe(model, data, TokenClassification())
    for row, tagged_words in zip(_seen(recipe, tmp_path, capsys), words, strict=False):
        marks = [(text, mark) for text, mark in row["tokens"] if mark]
        assert marks == [*zip(tagged_words["tokens"], tagged_words["tags"], strict=True)]
        assert row["label"] is None


def test_more_rows_than_are_kept_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Recipe().save(tmp_path / "recipe.yaml")
    assert main(["doctor", str(tmp_path / "recipe.yaml"), "--json", "--rows", "51"]) == 2
    assert "rows must be less than or equal to 50; it is 51" in capsys.readouterr().err
