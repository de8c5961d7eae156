"""The benchmark of large models, in a small form: what it builds loads, and what it measures is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.smollm2 import require as require_smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import large, sides

HOLDS = """
import subprocess, sys
held = b"x" * (64 << 20)
more = "held = b'x' * (128 << 20); print(flush=True); input()"
with subprocess.Popen([sys.executable, "-c", more], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline(); print(flush=True); input(); child.stdin.close()
"""


def test_the_memory_of_children_counts() -> None:
    command = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        peak = large.memory_of(process.pid)
        process.stdin.close()
    assert 192 << 20 < peak.own < 256 << 20
    assert peak.all > peak.own


def test_what_it_builds_is_a_model_of_that_shape(tmp_path: Path) -> None:
    require_smollm2()
    weights = large.build(tmp_path / "model", "small")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


@pytest.mark.slow
def test_the_whole_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_smollm2()
    monkeypatch.setattr(sides, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["large", "--shape", "small", "--work", str(tmp_path / "work")])
    assert large.main() == 0
    written = json.loads((tmp_path / "large_small.json").read_text())
    assert set(written["peaks"]) == {"train", "evaluate", "export", "generate"}
    assert all(row["own_bytes"] > 100e6 for row in written["peaks"].values())
    assert all(row["planned_gb"] > 0.1 and row["of_plan"] > 0 for row in written["peaks"].values())
    assert written["answered"]
