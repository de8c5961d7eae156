"""ptune plan"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.cli import main

from .conftest import Make


@pytest.fixture
def recipe(make: Make, tmp_path: Path) -> str:
    make().save(tmp_path / "recipe.yaml")
    return str(tmp_path / "recipe.yaml")


def test_prints_the_ledger_and_the_verdict(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe]) == 0
    out = capsys.readouterr().out
    for word in ("weights", "quantisation state", "optimiser", "allocator slack", "fits", "merge", "export"):
        assert word in out


def test_a_card_is_planned_for_without_one(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--gpu", "RTX 4090", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cuda"
    assert found["fits"]
    assert found["peak_bytes"] == max(found["step_bytes"], found["loading"], found["saving"])


def test_what_does_not_fit_fails_with_the_change(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", recipe, "--json"])
    needed = json.loads(capsys.readouterr().out)["needed_bytes"]
    assert main(["plan", recipe, "--memory", f"{(needed - 5 * 10**7) / 1e6:.2f}MB"]) == 1
    assert "--train.micro-batch-tokens" in capsys.readouterr().out


def test_what_fits_nowhere_names_the_smallest_card(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--gpu", "0.5GB", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["changes"] is None
    assert main(["plan", recipe, "--gpu", "0.5GB"]) == 1
    assert "nothing makes it fit" in (said := capsys.readouterr().out)
    assert "a card of 8 GB (RTX 3050) would do" in said


def test_unknown_cards_and_amounts_are_one_message(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--gpu", "RTX 4091"]) == 2
    assert "did you mean 'RTX 4090'" in capsys.readouterr().err
    assert main(["plan", recipe, "--memory", "lots"]) == 2
    assert "is not an amount of memory" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "usage: ptune plan RECIPE" in capsys.readouterr().err
