"""An export notes each hop when it is measured, and what it noted is its proof."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import served_here
from support.chat_run import trained
from support.tiny_models import build

from ptune.cli import export as cli_export
from ptune.errors import ParityError
from ptune.formats.bundle import BASE, Bundle, Hop
from ptune.formats.hop_log import read_hop_log
from ptune.publish import steps
from ptune.verify import limits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hops")
    build(folder / "model", "llama")
    served_here.use()
    return trained(folder).folder


def test_the_table_fills_in_while_the_export_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the file when a stage begins are the hops of the stages before."""
    log, out = tmp_path / "hops.jsonl", tmp_path / "bundle"
    when: dict[str, set[str]] = {}

    def looked(stage: str) -> None:
        when[stage] = {hop.name for hops in read_hop_log(log).hops.values() for hop in hops}

    monkeypatch.setattr(steps, "say", lambda text: looked(text.strip()))
    asked = [str(run), "--out", str(out), "--name", "mine", "--hop-log", str(log)]
    assert cli_export.run([*asked, "--threads", "1"]) == 0
    graph, adapted = "torch → ONNX base", "torch + peft → ONNX + adapter"
    assert when["the ONNX graph"] >= {"trained → reloaded"}
    assert not {graph, adapted} & when["the ONNX graph"]
    assert when["the engine"] >= {graph, adapted}
    assert "ONNX → engine" not in when["the engine"]
    assert "ONNX → engine" in when["the server"]
    bundle, found = Bundle.open(out), read_hop_log(log)
    assert set(found.hops[BASE]) == {*bundle.manifest.hops}
    assert set(found.hops["mine"]) == {*bundle.adapter("mine").hops}
    assert {*when} == {*found.stages}


def test_a_refused_export_leaves_the_hop_that_drifts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_ABS_LOGPROB", 0.0)
    log, out = tmp_path / "hops.jsonl", tmp_path / "bundle"
    with pytest.raises(ParityError, match="limit"):
        cli_export.run([str(run), "--out", str(out), "--hop-log", str(log), "--threads", "1"])
    assert not out.exists()
    drifted: list[Hop] = [hop for hops in read_hop_log(log).hops.values() for hop in hops if not hop.passed]
    assert any(hop.name == "torch → ONNX base" for hop in drifted)
