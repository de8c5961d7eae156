"""A run and its bundle say the same, and a bundle is judged without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import classified

from ptune.cli import main
from ptune.errors import FormatError, UsageError
from ptune.evaluation.classification.evaluate import evaluate_run
from ptune.evaluation.classification.onnx_side import served_as
from ptune.evaluation.options import EvaluationOptions
from ptune.formats.run import Run
from ptune.publish import export_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("exported")
    run = classified.trained(folder, "text", "reviews")
    export_run(run, folder / "bundle", name="reviews", threads=1)
    return run, folder / "bundle"


def test_torch_and_onnx_stand_side_by_side(exported: tuple[Run, Path]) -> None:
    run, bundle = exported
    found = evaluate_run(run, EvaluationOptions(bundle=bundle, threads=1))
    assert list(found["sides"]) == ["torch", "ONNX"]
    assert found["agreement"]["labels"] == 1.0
    assert found["agreement"]["max_abs_p"] < 1e-4
    assert found["sides"]["torch"]["metrics"]["accuracy"] == found["sides"]["ONNX"]["metrics"]["accuracy"]
    page = run.report_path.read_text()
    assert "torch and ONNX agree on 100.00% of the labels" in page


def test_the_bundle_that_export_made_is_found_by_itself(
    exported: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, bundle = exported
    monkeypatch.chdir(tmp_path)
    assert served_as(run, None, None) is None
    shutil.copytree(bundle, tmp_path / "bundles" / "reviews")
    found = served_as(run, None, None)
    assert found is not None
    assert found.adapter == "reviews"


def test_an_adapter_of_other_weights_is_refused(exported: tuple[Run, Path], tmp_path: Path) -> None:
    run, bundle = exported
    other = Run(shutil.copytree(run.folder, tmp_path / "reviews"))
    weights = other.adapter_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UsageError, match=r"not what .* has trained"):
        served_as(other, bundle, None)
    with pytest.raises(FormatError, match="no adapter 'other'"):
        served_as(run, bundle, "other")


def test_a_bundle_is_judged_by_given_data_without_torch(exported: tuple[Run, Path], tmp_path: Path) -> None:
    run, bundle = exported
    data = run.folder.parent / "text.test.jsonl"
    words = ["evaluate", str(bundle), "--data", str(data), "--threads", "1", "--out", str(tmp_path / "out")]
    script = f"""
import sys
from ptune.cli import main
code = main({[*words, "--require", "accuracy>=0.5"]!r})
raise SystemExit(code or sorted({{"torch", "transformers", "peft"}} & sys.modules.keys()) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (found["split"], list(found["sides"])) == ("given", ["ONNX"])
    again = evaluate_run(run)
    assert found["metrics"]["accuracy"] == again["metrics"]["accuracy"]
    assert main([*words, "--require", "accuracy>=0.9999"]) == 1


def test_a_bundle_needs_data(exported: tuple[Run, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(exported[1])]) == 2
    assert "--data FILE" in capsys.readouterr().err


def test_a_bundle_is_evaluated_on_columns_with_other_names(
    exported: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, bundle = exported
    rows = [{"message": row["text"], "mood": row["label"]} for row in classified.reviews(20, 160)]
    data = classified.write(tmp_path / "a.jsonl", rows)
    asked = ["evaluate", str(bundle), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(asked) == 1
    assert "--task.columns.text message --task.columns.label mood" in capsys.readouterr().err
    assert main([*asked, "--task.columns.text", "message", "--task.columns.label", "mood"]) == 0
