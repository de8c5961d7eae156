"""A training that is no better than always giving the same answer says so while it runs, once, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ptune.evaluation.report import troubles
from ptune.fine_tune import train
from ptune.training import loop
from ptune.training.loss.next_token import NextTokenObjective

from .conftest import Make, interrupt

STEPS = {"max_steps": 40, "validate_every": 5}
EARLY = (
    "step 15: nothing is learnt yet: the lowest validation loss is 7, and always giving the same answer has 7"
)
Validated = Callable[[Sequence[float]], None]


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Validated:
    """validated(losses): what the validations measure, one after the other; the constant answer has a loss of 7."""
    losses: list[float] = []
    monkeypatch.setattr(NextTokenObjective, "constant_loss", lambda self, examples: 7.0)
    monkeypatch.setattr(loop, "held_out", lambda job, examples: (losses.pop(0), 0.0))
    return losses.extend


def test_it_is_said_once_after_a_third_of_the_steps_and_at_the_end(
    make: Make, tmp_path: Path, validated: Validated, capsys: pytest.CaptureFixture[str]
) -> None:
    validated([7.0] * 8)
    run = train(make(**STEPS), tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("nothing is learnt yet") == 1
    assert EARLY in said
    assert "step 40: nothing was learnt: the lowest validation loss is 7," in said
    assert "ptune tune --lr-range" in said
    record = run.record()
    assert (record.status, [one.step for one in record.nothing_learnt]) == ("finished", [15, 40])
    assert "At its end nothing was learnt" in troubles(record)


def test_what_is_learnt_later_is_said_too(make: Make, tmp_path: Path, validated: Validated) -> None:
    validated([7.0] * 5 + [6.0, 5.0, 4.0])
    record = train(make(**STEPS), tmp_path / "run").record()
    assert [one.step for one in record.nothing_learnt] == [15]
    assert "Until step 15 nothing was learnt" in troubles(record)
    assert "At its end" not in troubles(record)


def test_nothing_is_said_of_a_training_that_learns_in_time_or_has_no_labels(
    make: Make, tmp_path: Path, validated: Validated, capsys: pytest.CaptureFixture[str]
) -> None:
    validated([7.0, 7.0, *[6.0] * 6])
    record = train(make(**STEPS), tmp_path / "run").record()
    assert record.nothing_learnt == ()
    assert troubles(record) == ""
    assert "learnt" not in capsys.readouterr().err


def test_two_validations_come_first(make: Make, tmp_path: Path, validated: Validated) -> None:
    validated([7.0] * 3)
    record = train(make(max_steps=40, validate_every=18), tmp_path / "run").record()
    assert [one.step for one in record.nothing_learnt] == [36, 40]
    validated([7.0] * 2)
    record = train(make(max_steps=40, validate_every=21), tmp_path / "once").record()
    assert [one.step for one in record.nothing_learnt] == [40]


def test_a_resumed_training_does_not_say_it_again(
    make: Make,
    tmp_path: Path,
    validated: Validated,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    validated([7.0] * 8)
    interrupt(monkeypatch, 22, 0)
    recipe = make(**STEPS)
    assert train(recipe, tmp_path / "run").record().status == "interrupted"
    assert "nothing is learnt yet" in capsys.readouterr().err
    run = train(recipe, tmp_path / "run", resume=True)
    assert "nothing is learnt yet" not in capsys.readouterr().err
    assert [one.step for one in run.record().nothing_learnt] == [15, 40]


def test_one_that_stops_early_has_learnt_nothing_either(
    make: Make, tmp_path: Path, validated: Validated, capsys: pytest.CaptureFixture[str]
) -> None:
    validated([7.0] * 8)
    run = train(make(**STEPS, patience=4), tmp_path / "run")
    assert run.record().status == "stopped early"
    assert "nothing was learnt:" in capsys.readouterr().err
    assert "At its end nothing was learnt" in run.card_path.read_text(encoding="utf-8")
