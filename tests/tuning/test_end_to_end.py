"""The command on a tiny model: real trainings, the best recipe trained again, and the learning-rate range test."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from support import tiny_models

from ptune.cli import main
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.tuning.lr_range import range_test, suggested


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    tiny_models.build(folder / "model", "llama")
    rows = tiny_models.conversations(32)
    tiny_models.write_jsonl(folder / "train.jsonl", rows[:24])
    tiny_models.write_jsonl(folder / "test.jsonl", rows[24:])
    made = Recipe(
        name="tiny",
        backbone=Backbone(model=str(folder / "model")),
        data=Data(files=(folder / "train.jsonl",), test=(folder / "test.jsonl",)),
        train=Train(lr=5e-3, batch_size=4, micro_batch_tokens=256, max_steps=3, validate_every=2),
    )
    made.save(folder / "recipe.yaml")
    return folder / "recipe.yaml"


def test_a_pair_of_trials_and_the_best_of_them_again(recipe, tmp_path, capsys, monkeypatch):
    out = tmp_path / "search"
    words = ["tune", str(recipe), "--trials", "2", "--space", "train.lr=log:1e-4..1e-1", "method.r=2|4"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "validation loss" in said
    assert "best.yaml" in said
    found = json.loads((out / "tune.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["finished", "finished"]
    for trial in found["trials"]:
        entries = [json.loads(line) for line in (out / f"trial-{trial['number']}" / "metrics.jsonl").open()]
        assert trial["value"] == min(entry.get("validation_loss", math.inf) for entry in entries)
        data = json.loads((out / f"trial-{trial['number']}" / "data.json").read_text())
        assert not any("test.jsonl" in file["path"] for file in data["files"])  # never read
    assert found["best"]["value"] == min(trial["value"] for trial in found["trials"])
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(out / "best.yaml"), "--out", str(tmp_path / "again")]) == 0
    best, again = (_losses(run) for run in (out / f"trial-{found['best']['trial']}", tmp_path / "again"))
    assert best == pytest.approx(again, rel=1e-4)


def _losses(run: Path) -> list[float]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [entry.get("loss", entry.get("validation_loss")) for entry in entries]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--space", "train.lr=log:0..1"], "must begin above 0"),
        (["--space", "train.nothing=1..2"], "has no field 'nothing'"),
        (["--space", "method.r=0..4"], "method.r=0"),
        ([], "--space is empty"),
        (["--trials", "0", "--space", "method.r=1..4"], "--trials must be at least 1"),
        (["--lr-range", "--space", "method.r=1..4"], "leave out --space"),
        (["--lr-range", "--lr-range-steps", "1000"], "from 10 to 100"),
    ],
)
def test_what_is_asked_wrongly_is_told_before_anything_runs(recipe, tmp_path, capsys, words, told):
    assert main(["tune", str(recipe), "--out", str(tmp_path / "out"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_range_test_suggests_a_rate_that_learns_and_leaves_only_its_report(recipe, tmp_path, capsys):
    out = tmp_path / "range"
    assert main(["tune", str(recipe), "--lr-range", "--lr-range-steps", "14", "--out", str(out)]) == 0
    assert "suggested learning rate" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["lr-range.html", "lr-range.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["range"]
    found = json.loads((out / "lr-range.json").read_text())
    rates = [rate for rate, _ in found["points"]]
    assert rates[0] == pytest.approx(1e-7)
    assert all(later / earlier == pytest.approx(rates[1] / rates[0]) for earlier, later in pairwise(rates))
    assert 1e-5 < found["suggestion"] < 1
    page = (out / "lr-range.html").read_text()
    assert "<script" not in page
    assert 'class="kept"' in page


def test_the_range_test_is_repeatable(recipe):
    one, two = (range_test(Recipe.load(recipe), 10) for _ in range(2))
    assert one == two


def test_the_suggestion_is_where_the_loss_falls_fastest():
    """A made-up curve: flat, a fall whose middle is at 1e-3, flat, an explosion."""
    rates = [10 ** (-7 + 7 * step / 99) for step in range(100)]
    losses = [2 - 1 / (1 + (1e-3 / rate) ** 1.5) + (rate / 0.3) ** 4 for rate in rates]
    assert suggested(list(zip(rates, losses, strict=True))) == pytest.approx(1e-3, rel=1)
    rising = [(rate, 2.0 + rate) for rate in rates]
    assert suggested(rising) is None
    assert suggested([(1e-7, 1.0)]) is None
