"""`ptune tune --ray`: the trials of the plain search, trained on several machines."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest

from ptune.cli import main
from ptune.config.recipe import Recipe

from .conftest import Machines

SPACE = ["--space", "train.lr=log:1e-4..1e-1", "method.r=2|4", "--trials", "2", "--train.max-steps", "200"]


def test_a_trial_whose_machine_is_lost_is_run_again(
    recipe: Path, machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ended = tmp_path / "search", threading.Event()

    def lose() -> None:
        while not ended.wait(0.01):
            if sum("loading " in log.read_text() for log in out.glob("trial-*.log")) == 2:  # both have begun
                machines.lose("logged")
                return

    machines.add()  # takes the place of the lost one
    losing = threading.Thread(target=lose)
    losing.start()
    words = ["tune", str(recipe), *SPACE, "--out", str(out), "--ray", machines.address, "--workers", "2"]
    assert main(words) == 0
    ended.set()
    losing.join()
    assert "best.yaml" in capsys.readouterr().out
    found = json.loads((out / "tune.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 2
    logs = "".join(log.read_text() for log in sorted(out.glob("trial-*.log")))
    assert logs.count("loading ") > 2, "one began twice"
    for trial in found["trials"]:
        entries = [json.loads(line) for line in (out / f"trial-{trial['number']}" / "metrics.jsonl").open()]
        assert trial["value"] == min(entry.get("validation_loss", math.inf) for entry in entries)
    best = Recipe.load(out / "best.yaml")
    assert best.train.lr == found["best"]["params"]["train.lr"]
