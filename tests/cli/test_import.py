"""ptune import: what it prints, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.cli import main
from ptune.config.recipe import Recipe

CONFIG = """
base_model: a/b
adapter: lora
lora_r: 4
datasets: [{path: rows.jsonl, type: alpaca}]
sequence_len: 64
micro_batch_size: 2
logging_steps: 1
deepspeed: zero3.json
wandb_name:
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text(CONFIG)


def test_what_became_of_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "config.yml"]) == 0
    said = capsys.readouterr().out
    parts = [
        said.index(title)
        for title in ("taken over", "means something else", "\nnot taken over", "changes nothing", "empty")
    ]
    assert parts == sorted(parts)
    assert "lora_r: 4 -> method.r: 4" in said
    assert "deepspeed: zero3.json - " in said[parts[2] : parts[3]]
    assert "next: ptune doctor recipe.yaml\n" in said
    assert Recipe.load(Path("recipe.yaml")).name == "config"
    assert "deepspeed" in Path("recipe.yaml").read_text(encoding="utf-8")


def test_the_recipe_is_what_train_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "config.yml", "--out", "mine.yaml"]) == 0
    capsys.readouterr()
    assert main(["train", "mine.yaml", "--dry-run"]) == 0
    assert "max_length: 64" in capsys.readouterr().out


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "config.yml", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["next"] == "ptune doctor recipe.yaml"
    fields = {field["field"]: field for field in document["result"]["fields"]}
    assert fields["lora_r"]["path"] == "method.r"
    assert fields["deepspeed"]["how"] == "left"
    assert document["result"]["empty"] == ["wandb_name"]


def test_without_data_the_next_command_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yml").write_text(CONFIG.replace("rows.jsonl", "https://example.org/rows.jsonl"))
    assert main(["import", "config.yml"]) == 0
    assert "--data.files YOUR.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yml"], "cannot be read"),
        (["config.yml", "--devices", "0"], "--devices"),
        (["config.yml", "--out", "config.yml"], "--overwrite"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", *arguments]) == 2
    assert said in capsys.readouterr().err
