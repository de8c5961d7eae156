"""Figures of rows that also chose the kept step say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.style import kept_step
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import Run, RunRecord


def a_run(folder: Path, best: int | None, validated: tuple[int, ...]) -> Run:
    run = Run(folder)
    base = BaseIdentity(source="tiny", hash="0" * 64, dtype="float32")
    run.write_record(RunRecord(created="", base=base, steps=130, best_step=best, status="stopped early"))
    lines = [{"step": step, "validation_loss": 1 / step} for step in validated] + [{"step": 130, "loss": 0.1}]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.mark.parametrize(
    ("split", "best", "validated", "chose"),
    [
        ("validation", 50, (10, 50, 130), {"chose_step": 50}),
        ("test", 50, (10, 50, 130), {}),
        ("given", 50, (10, 50, 130), {}),
        ("validation", 130, (130,), {}),  # nothing to choose from
        ("validation", None, (), {}),
    ],
)
def test_which_rows_chose(
    split: str, best: int | None, validated: tuple[int, ...], chose: dict[str, int], tmp_path: Path
) -> None:
    assert chosen_by(a_run(tmp_path, best, validated), split) == chose


def test_the_report_says_it() -> None:
    assert "step 50" in kept_step({"chose_step": 50})
    assert kept_step({}) == ""
