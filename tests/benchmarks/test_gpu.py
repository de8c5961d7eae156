"""benchmarks/gpu stays ready: each of its parts runs in a small form on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.operators import PROFILES, where_nodes_ran

ROOT = Path(__file__).parents[2]


def test_nodes_are_counted_by_provider(tmp_path: Path) -> None:
    events = [
        {"cat": "Node", "args": {"op_name": "MatMul", "provider": "CUDAExecutionProvider"}},
        {"cat": "Node", "args": {"op_name": "MatMul", "provider": "CUDAExecutionProvider"}},
        {"cat": "Node", "args": {"op_name": "Gather", "provider": "CPUExecutionProvider"}},
        {"cat": "Session", "args": {}},
    ]
    (tmp_path / "profile.json").write_text(json.dumps(events))
    assert where_nodes_ran(tmp_path / "profile.json") == {
        "nodes": {"CUDA": {"MatMul": 2}, "CPU": {"Gather": 1}}
    }


@pytest.mark.slow
def test_the_small_form_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    for kind in ("nf4", "int8", "none"):
        assert found["exact"][kind]["repeats"]
        assert found["exact"][kind]["resumes"]
        assert found["exact"][kind]["read_back"] == 0
    assert all(found["layer"][kind]["of_x"] < 0.01 for kind in ("nf4", "int8"))
    assert found["train-4x2048"]["tokens_per_s"] > 0
    assert "LoraProduct" in found["profile"]["shares"]
    assert {*PROFILES} <= {*found["operators"]}
    assert all(0 <= found["operators"][name]["max_abs_logprob"] < 1 for name in PROFILES)
    assert "MatMulBnb4" in str(found["operators"]["nf4"]["nodes"])


def test_a_part_that_fails_costs_no_other_and_says_why(tmp_path: Path) -> None:
    """The profile's model was not written: --only leaves that part out."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(tmp_path), "--only", "profile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]["profile"]
    assert found["failed"] == "exit code 1"
    assert "BackboneError" in found["said"]
    assert "BackboneError" in (tmp_path / "profile.log").read_text()
