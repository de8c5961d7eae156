"""Each defect of pairs is found, with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.retrieval_runs import kit, pairs, recipe, write

from ptune.cli import main
from ptune.config.recipe import Recipe
from ptune.config.retrieval import Embedding, Reranking
from ptune.errors import DataError
from ptune.fine_tune import train

PLAIN = {"anchor": "a king", "positive": "a crown"}
DEFECTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "identical-pair": ("error", [{"anchor": "The  King", "positive": "the king"}]),
    "wrong-negative": ("error", [{**PLAIN, "negative": ["a dog", "A crown"]}]),
    "contradicted-negative": (
        "warning",
        [PLAIN, {"anchor": "a king", "positive": "a throne", "negative": "a crown"}],
    ),
    "common-passage": ("warning", [{"anchor": f"thing {at}", "positive": "a thing"} for at in range(20)]),
    "duplicates": ("warning", [PLAIN, PLAIN]),
    "unusable-row": ("error", [{"anchor": "a king", "positive": " "}]),
    "over-long": ("warning", [{"anchor": "a king", "positive": "word " * 200}]),
}


def examined(tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: Recipe) -> dict[str, Any]:
    changed.save(tmp_path / "recipe.yaml")
    main(["doctor", str(tmp_path / "recipe.yaml"), "--json"])
    return json.loads(capsys.readouterr().out)


def with_rows(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> Recipe:
    made = recipe(Embedding(max_length=32))
    path = write(tmp_path / "rows.jsonl", [*pairs(24), *rows])
    files = {"files": (path,), "validation": (kit() / "pairs.test.jsonl",), "test": (), **more}
    return made.model_copy(update={"data": made.data.model_copy(update=files)})


@pytest.mark.parametrize("rule", DEFECTS)
def test_a_planted_defect_is_found(rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    severity, rows = DEFECTS[rule]
    found = {one["rule"]: one for one in examined(tmp_path, capsys, with_rows(tmp_path, rows))["findings"]}
    assert found[rule]["severity"] == severity
    if rule not in ("over-long", "common-passage"):
        assert found[rule]["place"]["line"] > 24


def test_clean_data_has_no_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(tmp_path, capsys, with_rows(tmp_path, []))
    assert found["findings"] == []
    assert found["splits"]["train"]["rows"] == 24


def test_the_same_anchors_on_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = write(tmp_path / "test.jsonl", [{**row, "positive": "another"} for row in pairs(4)])
    found = examined(tmp_path, capsys, with_rows(tmp_path, [], test=(test,)))
    assert {one["rule"]: one["severity"] for one in found["findings"]}["test-overlap"] == "error"


def test_one_passage_for_all_is_an_error_and_stops_training(tmp_path: Path) -> None:
    rows = [{"anchor": f"thing {at}", "positive": "a thing"} for at in range(12)]
    made = with_rows(tmp_path, [])
    data = made.data.model_copy(update={"files": (write(tmp_path / "one.jsonl", rows),)})
    with pytest.raises(DataError, match="same positive"):
        train(made.model_copy(update={"data": data}), tmp_path / "run")


def test_a_missing_column_is_said_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "other.jsonl", [{"text": "a", "label": "b"}] * 3)
    made = with_rows(tmp_path, [], files=(path,)).model_copy(update={"task": Reranking()})
    with pytest.raises(
        DataError,
        match=r"no column 'anchor' or 'query' or 'question' and no .*; there are 'text', 'label': .*columns\.anchor text",
    ):
        train(made, tmp_path / "run")
