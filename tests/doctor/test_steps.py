"""What the doctor says about judged steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Backbone, Data
from ptune.doctor import steps
from ptune.doctor.classification import examine_labelled
from ptune.doctor.finding import Finding


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build_encoder(tmp_path_factory.mktemp("model"), "bert")


def rows(count: int, *verdicts: bool, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"number {n}",
            "completions": [f"step {at} of {n}" for at in range(len(verdicts))],
            "labels": verdicts,
        }
        for n in range(start, start + count)
    ]


def found(folder: Path, model: Path, lines: list[dict[str, Any]], **task: Any) -> dict[str, Finding]:
    path = folder / "train.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    codec = load_sequence_codec(Backbone(model=str(model)))
    report = examine_labelled(Data(files=(path,), validation_share=0.05), ProcessReward(**task), codec, 0)
    return {finding.rule: finding for finding in report.findings}


SOUND = [*rows(40, True, True), *rows(20, True, False, False, start=50)]


def test_sound_data_has_no_findings(tmp_path: Path, model: Path) -> None:
    assert found(tmp_path, model, SOUND) == {}


def test_every_rule_finds_a_planted_defect(tmp_path: Path, model: Path) -> None:
    planted = {
        "right-after-wrong": [*SOUND, *rows(3, False, True, start=90)],
        "wrong-is-last": [*rows(10, True, True), *rows(40, True, False, start=50)],
    }
    assert set(planted) == {rule.id for rule in steps.RULES}
    for rule, lines in planted.items():
        assert set(found(tmp_path, model, lines)) == {rule}
    resumed = found(tmp_path, model, planted["right-after-wrong"])["right-after-wrong"]
    assert resumed.count is not None
    assert resumed.place is not None
    assert resumed.place.number is not None
    assert resumed.place.number > len(SOUND)


def test_steps_that_are_all_right_teach_nothing(tmp_path: Path, model: Path) -> None:
    finding = found(tmp_path, model, rows(40, True, True))["one-class"]
    assert finding.severity == "error"
    assert finding.message.startswith("'right' is the label of every step")


def test_the_same_answer_with_other_verdicts_is_told(tmp_path: Path, model: Path) -> None:
    twice = [*SOUND, *rows(1, True, False), *rows(1, True, True, start=1)]
    assert {"conflicting-labels", "duplicates"} <= set(found(tmp_path, model, twice))


def test_steps_that_are_cut_off_are_counted(tmp_path: Path, model: Path) -> None:
    finding = found(tmp_path, model, SOUND, max_length=20)["over-long"]
    assert "steps with them" in finding.message
