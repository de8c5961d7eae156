"""benchmarks/gpu.py stays ready: its small form runs on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import PROFILES, where_nodes_ran

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
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--work", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["training"]["tokens_per_s"] > 0
    assert {*found["operators"]} == {*PROFILES}
    assert all(0 <= one["max_abs_logprob"] < 1 for one in found["operators"].values())
    assert "MatMulBnb4" in str(found["operators"]["nf4"]["nodes"])
