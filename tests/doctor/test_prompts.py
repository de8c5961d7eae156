"""The doctor on prompts: those that are there twice, and held-out ones that are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from support import tiny_models

from ptune.config.recipe import Backbone, Data, Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.tasks.reinforcement.doctor import examine


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    tiny_models.build(tmp_path / "model", "llama")
    return Recipe(
        task=Reinforcement(rewards=("exact",), max_length=160, answer_tokens=100),
        backbone=Backbone(model=str(tmp_path / "model")),
        data=Data(
            files=(tmp_path / "train.jsonl",),
            validation=(tmp_path / "validation.jsonl",),
            test=(tmp_path / "test.jsonl",),
        ),
    )


def write(folder: Path, **splits: list[str]) -> None:
    for name in ("train", "validation", "test"):
        rows = [{"prompt": text, "answer": "4"} for text in splits.get(name, [f"{name} 1", f"{name} 2"])]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def found(recipe: Recipe) -> dict[str, tuple[str, str]]:
    findings = examine(recipe).described()["findings"]
    return {one["rule"]: (one["severity"], str(one["place"])) for one in findings}


def test_good_prompts(recipe: Recipe, tmp_path: Path) -> None:
    write(tmp_path)
    examined = examine(recipe)
    assert examined.described()["findings"] == []
    assert not examined.has_errors
    console = Console(record=True, width=120)
    examined.show(console)
    assert "nothing is wrong" in (text := console.export_text())
    assert "train                2          2" in text


def test_prompts_that_are_there_twice_or_held_out_and_trained_on(recipe: Recipe, tmp_path: Path) -> None:
    write(tmp_path, train=["a", "b", "a"], validation=["b", "c"], test=["d", "a"])
    findings = examine(recipe).described()["findings"]
    assert [(one["rule"], one["severity"]) for one in findings] == [
        ("leaked-prompt", "error"),
        ("leaked-prompt", "warning"),
        ("duplicate-prompt", "warning"),
    ]
    places = [one["place"] for one in findings]
    assert [place["line"] for place in places] == [2, 1, 3]
    assert places[0]["file"].endswith("test.jsonl")
    assert "'a'" in findings[0]["message"]
    assert examine(recipe).has_errors


def test_what_cannot_be_read_is_a_finding(recipe: Recipe, tmp_path: Path) -> None:
    write(tmp_path, train=["a", "b " * 200, "c"])
    assert "unusable-file" in found(recipe)
