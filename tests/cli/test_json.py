"""`--json`: what a program gets from each command, by running the whole way once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.cli import main


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a command prints on standard output: one JSON object."""
    capsys.readouterr()
    code = main([*arguments, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == code
    assert found["command"] == arguments[0]
    return found


def test_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_models.build(tmp_path / "model", "llama")
    tiny_models.write_jsonl(tmp_path / "data.jsonl", tiny_models.conversations(24))
    recipe = [
        *("train", "chat_lora", "--backbone.model", "model", "--data.files", "data.jsonl"),
        *("--train.max-steps", "2", "--evaluate.answers", "0", "--evaluate.in-context", "0"),
    ]
    trained = told([*recipe, "--out", "one"], capsys)
    assert trained["error"] is None
    assert trained["next"] == "ptune evaluate one"
    assert trained["result"]["run"] == "one"
    assert trained["result"]["record"]["status"] == "finished"
    assert (tmp_path / trained["result"]["adapter"] / "adapter_model.safetensors").is_file()
    told([*recipe, "--out", "two", "--train.lr", "1e-2"], capsys)

    for name in ("one", "two"):
        evaluated = told(["evaluate", name], capsys)["result"]
        written = json.loads((tmp_path / name / "evaluation.json").read_text())
        assert evaluated["evaluation"]["after"] == written["after"]
        assert (tmp_path / evaluated["report"]).is_file()
    found = told(["compare", "one", "two"], capsys)
    assert found["error"] is None
    compared = found["result"]["comparison"]
    assert [run["name"] for run in compared["runs"]] == ["one", "two"]

    exported = told(["export", "one", "--out", "bundle", "--anyway"], capsys)
    assert exported["next"] == "ptune serve bundle"
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    hops = exported["result"]["parity"]["one"]
    assert [hop["name"] for hop in hops]
    assert all(hop["passed"] for hop in hops)
    assert exported["result"]["bundle"] == "bundle"
    assert manifest["format"] == 1
    added = told(["add", "bundle", "two"], capsys)["result"]
    assert added["adapter"]["name"] == "two"
    assert set(added["parity"]) >= {"two"}

    (tmp_path / "in.jsonl").write_text('{"prompt": "The sea"}\n')
    generated = told(["generate", "bundle", "--input", "in.jsonl", "--max-tokens", "2"], capsys)
    assert [row["prompt"] for row in generated["result"]["rows"]] == ["The sea"]
    combined = told(["combine", "one", "two", "--out", "both", "--how", "svd"], capsys)
    assert combined["next"] == "ptune add bundles/NAME both"
    assert [part["part"] for part in combined["result"]["held_out"]] == ["one", "two"]
    own = [part["own"]["loss"] for part in combined["result"]["held_out"]]
    assert own == pytest.approx([run["metrics"]["loss"] for run in compared["runs"]], abs=1e-6)
    merged = told(["merge", "one", "--out", "merged"], capsys)["result"]
    assert merged["model"] == "merged"
    assert merged["parity"]["passed"]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["evaluate", "nowhere"], 1, "no run at nowhere"),
        (["train", "chat_lorra"], 2, "did you mean 'chat_lora'"),
        (["export", "--nonsense"], 2, "wrong arguments"),
        (["compare", "one"], 2, "two"),
        (["combine", "nowhere", "else", "--out", "x"], 1, "nowhere/adapter_config.json is missing"),
    ],
)
def test_what_fails_says_why(
    arguments: list[str], code: int, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(arguments, capsys)
    assert found["exit_code"] == code
    assert error in found["error"]
    assert found["next"] is None


def test_all_else_goes_to_standard_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ptune", "env", "--no-gpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["result"]["ptune"] in done.stderr
    assert found["result"]["cores"] in done.stderr


def test_one_result_does_not_hold_what_the_last_had(capsys: pytest.CaptureFixture[str]) -> None:
    told(["evaluate", "nowhere"], capsys)
    found = told(["env", "--no-gpu"], capsys)
    assert found["error"] is None
