"""`ptune train --ray`: the bytes of processes that were started plainly, whatever is lost on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def when_saved(out: Path, step: int, do: Callable[[threading.Event], object]) -> Iterator[None]:
    """Does something as soon as the run has a checkpoint of that step or a later one, unless the block has ended before. What
    is done learns of the block's end by an event."""
    ended = threading.Event()

    def look() -> None:
        latest = out / "checkpoints" / "latest.json"
        while not latest.is_file() or json.loads(latest.read_text())["step"] < step:
            if ended.wait(0.01):
                return
        do(ended)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


def test_a_lost_machine_changes_no_byte(
    recipe: Path, machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machines.add()  # takes the place of the lost one
    lost: list[bool] = []
    while not any(lost):  # a training may end before anybody can lose a machine of its
        out = tmp_path / f"lost-{len(lost)}"
        words = ["train", str(recipe), "--out", str(out), "--ray", machines.address, "--workers", "2"]
        capsys.readouterr()
        lost.append(False)
        with when_saved(out, 4, lambda ended: lost.append(machines.lose("logged", ended))):
            assert main(words) == 0
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
    words = ["train", str(recipe), "--out", str(out), "--ray", machines.address, "--train.max-steps", "150"]
    with when_saved(out, 2, lambda _: os.kill(os.getpid(), signal.SIGINT)):
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
