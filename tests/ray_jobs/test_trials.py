"""`ptune tune --ray`: the trials of the plain search, trained on several machines."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from ptune.cli import main
from ptune.config.recipe import Recipe

from .conftest import Machines


def searched(recipe: Path, machines: Machines, out: Path, steps: int) -> list[dict[str, Any]]:
    """The trials of a search whose best recipe and values are what the trials' own journals say."""
    words = ["tune", str(recipe), "--space", "train.lr=log:1e-4..1e-1", "method.r=2|4", "--trials", "2"]
    words += ["--train.max-steps", str(steps), "--out", str(out)]
    assert main([*words, "--ray", machines.address, "--workers", "2"]) == 0
    found: dict[str, Any] = json.loads((out / "tune.json").read_text())
    for trial in found["trials"]:
        entries = [json.loads(line) for line in (out / f"trial-{trial['number']}" / "metrics.jsonl").open()]
        assert trial["value"] == min(entry.get("validation_loss", math.inf) for entry in entries)
    assert Recipe.load(out / "best.yaml").train.lr == found["best"]["params"]["train.lr"]
    trials: list[dict[str, Any]] = found["trials"]
    return trials


def test_trials_are_trained_on_the_cluster(
    recipe: Path, machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = searched(recipe, machines, tmp_path / "search", steps=12)
    assert [trial["state"] for trial in trials] == ["finished"] * 2
    assert "best.yaml" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_whose_machine_is_lost_is_run_again(recipe: Path, machines: Machines, tmp_path: Path) -> None:
    out, ended = tmp_path / "search", threading.Event()

    def begun() -> int:
        """How many trainings have begun, by their logs."""
        return sum(log.read_text().count("loading ") for log in out.glob("trial-*.log"))

    def lose() -> None:
        while not ended.wait(0.01):
            if begun() == 2:
                machines.lose("logged")
                return

    machines.add()  # takes the place of the lost one
    losing = threading.Thread(target=lose)
    losing.start()
    try:
        trials = searched(recipe, machines, out, steps=200)
    finally:
        ended.set()
        losing.join()
    assert [trial["state"] for trial in trials] == ["finished"] * 2
    assert begun() == 3, "one began twice"
