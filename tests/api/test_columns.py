"""Columns with names of their own: training on rows in memory, evaluating, and the doctor, all by task.columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support import classified

import ptune
from ptune.cli import main
from ptune.errors import UsageError

COLUMNS = {"text": "message", "label": "mood"}
OPTIONS = ["--task.columns.text", "message", "--task.columns.label", "mood"]


def moods(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": at, "message": row["text"], "mood": row["label"]}
        for at, row in enumerate(classified.reviews(count, first))
    ]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> ptune.Recipe:
    model = classified.encoder(tmp_path_factory.mktemp("columns") / "model")
    return ptune.Recipe(
        name="moods",
        task=ptune.TextClassification(),
        backbone=ptune.Backbone(model=str(model)),
        train=ptune.Train(max_steps=2, batch_size=8),
    )


@pytest.fixture(scope="module")
def run(recipe: ptune.Recipe, tmp_path_factory: pytest.TempPathFactory) -> ptune.Run:
    return ptune.train(
        recipe, tmp_path_factory.mktemp("run") / "run", data=moods(40), task={"columns": COLUMNS}
    )


@pytest.mark.parametrize("kind", ["pandas", "datasets", "usual names"])
def test_the_same_rows_are_trained_on(
    kind: str, run: ptune.Run, recipe: ptune.Recipe, tmp_path: Path
) -> None:
    rows: Any = moods(40)
    changes: Any = {"task": {"columns": COLUMNS}}
    if kind == "pandas":
        rows = pytest.importorskip("pandas").DataFrame(rows)
    elif kind == "datasets":
        rows = pytest.importorskip("datasets").Dataset.from_list(rows)
    else:
        rows, changes = classified.reviews(40), {}
    other = ptune.train(recipe, tmp_path / "run", data=rows, **changes)
    kept = [json.loads(one.data_path.read_text()) for one in (run, other)]
    assert kept[0]["train"] == kept[1]["train"]
    assert kept[0]["validation"] == kept[1]["validation"]


def test_a_run_is_evaluated_on_columns_called_as_in_training_or_as_is_said(
    run: ptune.Run, tmp_path: Path
) -> None:
    same = ptune.evaluate(run, data=moods(20, 60))
    usual = classified.write(tmp_path / "usual.jsonl", classified.reviews(20, 60))
    with pytest.raises(ptune.DataError, match=r"--task\.columns\.text text --task\.columns\.label label$"):
        ptune.evaluate(run, data=usual)
    assert ptune.evaluate(run, data=usual, columns={"text": "text", "label": "label"}).figures == same.figures
    code = main(["evaluate", str(run.folder), "--data", str(usual), "--task.columns.text=text",
                 "--task.columns.label", "label"])  # fmt: skip
    assert code == 0


def test_names_of_columns_without_data_are_refused(run: ptune.Run) -> None:
    with pytest.raises(UsageError, match="which is not given"):
        ptune.evaluate(run, columns=COLUMNS)


def test_the_doctor_takes_them_and_says_how_where_they_are_missing(
    recipe: ptune.Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.save(tmp_path / "moods.yaml")
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "message", "mood"])
        writer.writeheader()
        writer.writerows(moods(40))
    asked = ["doctor", str(tmp_path / "moods.yaml"), "--data.files", str(tmp_path / "a.csv")]
    assert main(asked) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert " ".join(OPTIONS) in said
    assert main([*asked, *OPTIONS]) == 0
    assert capsys.readouterr().out.rstrip().endswith(" ".join(OPTIONS))
