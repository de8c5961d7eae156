"""The parity table as the commands print it."""

from __future__ import annotations

import pytest

from ptune.cli.proof_table import show
from ptune.formats.bundle import Hop
from ptune.verify.proof import Proof


def test_every_hop_with_its_figures_and_its_note(capsys: pytest.CaptureFixture[str]) -> None:
    base = Hop(
        name="torch → ONNX base",
        prompts=16,
        positions=16,
        max_abs_logprob=1.234e-5,
        limit="≤ 0.001",
        passed=True,
    )
    dead = Hop(
        name="(adapter − base)",
        prompts=16,
        positions=16,
        limit="≤ 0.01",
        passed=False,
        note="the adapter is [dead]",
    )
    int8 = Hop(
        name="fp32 → int8",
        prompts=60,
        positions=60,
        top1=0.995,
        limit="≥ 99%",
        passed=True,
        note="mean |Δp| 0.0031",
    )
    own = int8.model_copy(update={"name": "fp32 → int8, own", "passed": False, "form": "int8: own attention"})
    show(Proof((base,), {"mood": (dead, int8, own)}))
    lines = capsys.readouterr().out.splitlines()
    assert {"adapter", "hop", "limit", "note"} <= {*next(line for line in lines if "note" in line).split()}
    (first,) = (line for line in lines if "torch → ONNX base" in line)
    assert "1.2e-05" in first
    assert "ok" in first
    (second,) = (line for line in lines if "(adapter − base)" in line)
    assert "DRIFTS" in second
    assert "the adapter is [dead]" in second
    (third,) = (line for line in lines if "fp32 → int8 " in line)
    assert "99.5%" in third
    assert "mean |Δp| 0.0031" in third
    (fourth,) = (line for line in lines if "fp32 → int8, own" in line)
    assert "not used" in fourth
