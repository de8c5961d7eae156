"""`ptune train --ray`: the bytes of processes that were started plainly, whatever is lost on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ptune.cli import main

from .conftest import Machines

FORKED = Path(__file__).parents[1] / "support" / "forked.py"


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix != ".md"
    }


def undisturbed(recipe: Path, out: Path) -> dict[str, str]:
    """The adapter of two processes with gloo, without Ray."""
    request = json.dumps({"recipe": str(recipe), "out": str(out), "processes": 2})
    command = [sys.executable, str(FORKED)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input=request + "\n", capture_output=True, text=True, env=environment)
    answer = json.loads(done.stdout)
    assert answer["codes"] == [0, 0], answer["said"]
    return fingerprint(out / "adapter")


def when_saved(out: Path, step: int, do: threading.Thread) -> None:
    """Starts a thread as soon as the run has a checkpoint of that step or a later one."""

    def look() -> None:
        latest = out / "checkpoints" / "latest.json"
        while not latest.is_file() or json.loads(latest.read_text())["step"] < step:
            time.sleep(0.01)
        do.start()

    threading.Thread(target=look, daemon=True).start()


def test_a_lost_machine_changes_no_byte(
    recipe: Path, machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lost"

    machines.add()  # takes the place of the lost one
    losing = threading.Thread(target=machines.lose, args=("logged",))
    when_saved(out, 4, losing)
    words = ["train", str(recipe), "--out", str(out), "--ray", machines.address, "--workers", "2"]
    assert main(words) == 0
    losing.join()
    said = capsys.readouterr()
    assert (
        "both processes begin again" in said.err
        or "2 processes begin again from the checkpoint of step" in said.err
    )
    assert "resuming, but not to the same bits" not in said.err
    assert "Traceback" not in said.err
    assert "finished after 40 steps" in said.err
    assert said.out.startswith("next: ptune evaluate ")
    record = json.loads((out / "run.json").read_text())
    assert (record["processes"], record["distributed"], record["status"]) == (2, "MULTI_CPU", "finished")
    assert record["command"] == f"ptune {' '.join(words)}"
    assert fingerprint(out / "adapter") == undisturbed(recipe, tmp_path / "plain")


@pytest.mark.slow
def test_ctrl_c_stops_all_after_a_step_and_resume_goes_on(
    recipe: Path, machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stopped"
    when_saved(out, 2, threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)))
    words = ["train", str(recipe), "--out", str(out), "--ray", machines.address, "--train.max-steps", "150"]
    assert main(words) == 130
    said = capsys.readouterr().err
    assert "stopping after this step" in said
    assert f"--ray {machines.address} --train.max-steps 150 --resume" in said
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert main([*words, "--resume"]) == 0
    assert json.loads((out / "run.json").read_text())["processes"] == 2


def test_what_is_refused_is_said_once(
    recipe: Path, machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(recipe), "--out", str(tmp_path / "out"), "--ray", machines.address]
    assert main([*words, "--train.batch-size", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("fewer examples than the 2 processes") == 1
    assert main([*words, "--workers", "3"]) == 1
    assert "2 processors for 3 workers" in capsys.readouterr().err
