"""ptune plan: how long a training takes here, by a few of its steps or by an earlier run of the same work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.classified import encoder, reviews, write

from ptune.cli import main
from ptune.config.classification import TextClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from ptune.planning import fit
from ptune.planning.fit import Fit
from ptune.planning.prediction import predict


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A tiny chat recipe, in the folder that commands are given in."""
    monkeypatch.chdir(tmp_path)
    tiny_models.build(tmp_path / "model", "llama")
    tiny_models.write_jsonl(tmp_path / "train.jsonl", tiny_models.conversations(40))
    recipe = Recipe(
        name="tiny",
        backbone=Backbone(model="model"),
        method=Lora(r=4),
        data=Data(files=(Path("train.jsonl"),)),
        train=Train(epochs=2, batch_size=4, micro_batch_tokens=256),
    )
    recipe.save(tmp_path / "recipe.yaml")
    return recipe


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["plan", "recipe.yaml", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_steps_are_timed_and_counted_as_training_takes_them(
    chat: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "recipe.yaml"]) == 0
    assert "time: not known; --time times a few steps of it on this machine" in capsys.readouterr().out
    found = planned(capsys, "--time")["time"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "recipe.yaml", "train.jsonl"], (
        "no run"
    )
    assert found["by"] == "4 of its steps, timed"
    assert found["step_s"] > 0
    assert found["seconds"] == pytest.approx(
        found["steps"] * found["step_s"] + found["validations"] * found["validation_s"]
    )
    run = train(chat, Path("runs/before"))
    validations = sum("validation_loss" in entry for entry in run.metrics())
    assert (found["steps"], found["validations"]) == (run.record().steps, validations)


def test_an_earlier_run_tells_the_pace_unasked(chat: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(chat, Path("runs/before"))
    found = planned(capsys, "--train.epochs", "4", "--train.lr", "0.1")["time"]
    took = [entry["seconds"] for entry in run.metrics() if "loss" in entry]
    assert found["step_s"] == pytest.approx(sum(took) / len(took))
    assert found["steps"] == 2 * len(took)
    assert "by runs/before" in found["told"]
    assert planned(capsys, "--method.r", "8")["time"] is None, "other steps"


def test_of_a_card_by_name_no_time_is_told(chat: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    train(chat, Path("runs/before"))
    assert planned(capsys, "--gpu", "RTX 4090")["time"] is None
    assert main(["plan", "recipe.yaml", "--gpu", "RTX 4090"]) == 0
    assert "time: not predicted for another machine than this one" in capsys.readouterr().out
    assert main(["plan", "recipe.yaml", "--gpu", "RTX 4090", "--time"]) == 2
    assert "--time times steps on this machine, and --gpu names another" in capsys.readouterr().err


def test_what_does_not_fit_is_not_timed(
    chat: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_fits(recipe: Recipe, *_: Any, **__: Any) -> Fit:  # finding that takes long
        return Fit(recipe, predict(recipe), (), 10**6, fits=False)

    monkeypatch.setattr(fit, "fit_into", nothing_fits)
    assert main(["plan", "recipe.yaml", "--time", "--memory", "1MB"]) == 1
    assert "time: not known, as it does not fit" in capsys.readouterr().out


def test_a_classifier_whose_memory_is_not_predicted_is_timed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder(tmp_path / "bert")
    write(tmp_path / "reviews.jsonl", reviews(80))
    Recipe(
        name="moods",
        task=TextClassification(),
        backbone=Backbone(model="bert"),
        data=Data(files=(Path("reviews.jsonl"),)),
        train=Train(max_steps=30, batch_size=8, validate_every=10),
    ).save(tmp_path / "recipe.yaml")
    found = planned(capsys, "--time")
    assert "memory is predicted for chat only" in found["memory"]
    assert (found["time"]["steps"], found["time"]["validations"]) == (30, 3)
    assert main(["plan", "recipe.yaml", "--time"]) == 0
    told = capsys.readouterr().out
    assert "on this machine: 30 steps of" in told
    assert not Run(tmp_path / "runs" / "moods").folder.exists()
