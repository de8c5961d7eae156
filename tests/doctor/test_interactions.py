"""What is wrong with interactions is told with its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import recommendation_runs
from support.retrieval_runs import write

from ptune.backbone.classifier import load_sequence_codec
from ptune.cli import main
from ptune.doctor.interactions import SET_RULES, examine_interactions
from ptune.errors import DataError
from ptune.fine_tune import train

HAD = recommendation_runs.interactions()
DEFECTS = {
    "unknown-item": ([*HAD, {"user": "u0", "item": "nothing"}], {}),
    "missing-title": (HAD, {"i3": " "}),
    "no-pairs": ([{"user": f"u{at}", "item": f"i{item}"} for at in range(4) for item in range(3)], {}),
    "single-item": ([*HAD, {"user": "lonely", "item": "i1"}], {}),
    "duplicate-pair": ([*HAD, HAD[0]], {}),
}


def recipe(folder: Path, rows: list[dict[str, str]], titles: dict[str, str]):
    items = {**recommendation_runs.TITLES, **titles}
    write(folder / "items.jsonl", [{"item": item, "title": title} for item, title in items.items()])
    had = write(folder / "had.jsonl", rows)
    return recommendation_runs.recipe(had, task={"items": folder / "items.jsonl"})


def test_every_rule_has_a_case() -> None:
    assert set(DEFECTS) == {rule.id for rule in SET_RULES}


@pytest.mark.parametrize("rule", DEFECTS)
def test_a_defect_is_found_and_nothing_else(rule: str, tmp_path: Path) -> None:
    asked = recipe(tmp_path, *DEFECTS[rule])
    found = examine_interactions(asked, load_sequence_codec(asked.backbone))
    (finding,) = found.findings
    assert finding.rule == rule
    assert finding.place is not None
    severity = next(one.severity for one in SET_RULES if one.id == rule)
    assert finding.severity == severity
    assert found.has_errors == (severity == "error")
    if rule == "duplicate-pair":
        assert finding.place.number == len(HAD) + 1


def test_good_data_has_no_findings(tmp_path: Path) -> None:
    asked = recipe(tmp_path, HAD, {})
    assert examine_interactions(asked, load_sequence_codec(asked.backbone)).findings == []


def test_errors_stop_a_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown-item"):
        train(recipe(tmp_path, *DEFECTS["unknown-item"]), tmp_path / "run")


def test_the_command_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(tmp_path, *DEFECTS["single-item"]).save(tmp_path / "recipe.yaml")
    assert main(["doctor", str(tmp_path / "recipe.yaml"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["rule"] for one in said["findings"]] == ["single-item"]
    assert {file["split"] for file in said["files"]} == {"items", "train"}
