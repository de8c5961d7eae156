"""A training that collapses goes back to its last good checkpoint with a third of the rate, and says so; killed or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptune.config.recipe import Recipe
from ptune.errors import PtuneError
from ptune.evaluation.report import troubles
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.formats.whole_write import write_json
from ptune.training import checkpoint, loop
from ptune.training.job import Job

from .conftest import Make, fingerprint, interrupt, refused

STEPS = {"max_steps": 60, "validate_every": 10}


@pytest.fixture
def ruin(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """ruin(step, times): from that step on every loss is 12 instead of about 7, in the first so many passes."""
    planted, step, measured = list[tuple[int, int]](), loop.optimizer_step, loop.held_out
    ruined = [False]

    def ruining(job: Job, batch: Any, number: int, steps: int) -> float:
        loss = step(job, batch, number, steps)
        ruined[0] = any(number + 1 >= at and job.rollbacks < times for at, times in planted)
        return 12.0 if ruined[0] else loss

    def measuring(job: Job, examples: Any) -> tuple[float, float]:
        loss, right = measured(job, examples)
        return (12.0, 0.0) if ruined[0] else (loss, right)

    monkeypatch.setattr(loop, "optimizer_step", ruining)
    monkeypatch.setattr(loop, "held_out", measuring)
    return lambda at, times: planted.append((at, times))


def course(run: Run) -> list[dict[str, Any]]:
    """metrics.jsonl without times, and samples.jsonl."""
    return [
        {name: value for name, value in entry.items() if not name.startswith(("seconds", "tokens"))}
        for entry in [*run.metrics(), *run.samples()]
    ]


def test_it_goes_back_and_learns_at_a_third_of_the_rate(
    make: Make, tmp_path: Path, ruin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ruin(25, 1)
    run = train(make(**STEPS, schedule="constant"), tmp_path / "run")
    record = run.record()
    assert (record.status, record.steps, len(record.rollbacks)) == ("finished", 60, 1)
    (back,) = record.rollbacks
    assert 25 < back.step < 60
    assert back.to_step == 20
    assert back.lr == pytest.approx(5e-3 / 3)
    steps = [entry for entry in run.metrics() if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 61))
    assert [entry["lr"] for entry in steps[10:]] == pytest.approx([5e-3] * 10 + [5e-3 / 3] * 40)
    assert [entry.get("rollbacks", 0) for entry in steps] == [0] * 20 + [1] * 40
    validated = [entry["step"] for entry in run.metrics() if "validation_loss" in entry]
    assert [entry["step"] for entry in run.samples()] == [step for step in validated for _ in range(2)]
    said = capsys.readouterr().err
    assert f"step {back.step}: training has collapsed: the mean loss of the last 20 steps is" in said
    assert "It went back to step 20, and on with a third of the learning rate, 0.0017" in said
    assert "training had collapsed" in troubles(record)
    assert "training had collapsed" in run.card_path.read_text()


@pytest.mark.parametrize(("step", "rollbacks"), [(28, 0), (20, 1), (45, 1)])
def test_stopped_before_or_after_it_goes_back_the_bytes_are_the_same(
    make: Make, tmp_path: Path, ruin: Any, monkeypatch: pytest.MonkeyPatch, step: int, rollbacks: int
) -> None:
    ruin(25, 1)
    recipe = make(**STEPS, dropout=0.1)
    whole = train(recipe, tmp_path / "whole")
    assert len(whole.record().rollbacks) == 1
    interrupt(monkeypatch, 21 if step == 20 else step, rollbacks)
    assert train(recipe, tmp_path / "broken").record().status == "interrupted"
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)
    assert course(resumed) == course(whole)
    assert resumed.record().rollbacks == whole.record().rollbacks


class Killed(BaseException):
    """As if the process had died."""


@pytest.mark.parametrize("survived", [0, 1])
def test_killed_while_it_goes_back(
    make: Make, tmp_path: Path, ruin: Any, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    ruin(25, 1)
    recipe = make(**STEPS)
    whole = train(recipe, tmp_path / "whole")
    written, roll_back = list[Path](), checkpoint.Checkpoints.roll_back

    def dying(path: Path, value: Any) -> None:
        if len(written) == survived:
            raise Killed
        written.append(path)
        write_json(path, value)

    def killed(*arguments: Any) -> Any:
        monkeypatch.setattr(checkpoint, "write_json", dying)
        return roll_back(*arguments)

    monkeypatch.setattr(checkpoint.Checkpoints, "roll_back", killed)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "broken")
    monkeypatch.setattr(checkpoint.Checkpoints, "roll_back", roll_back)
    monkeypatch.setattr(checkpoint, "write_json", write_json)
    assert len(written) == survived
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)
    assert course(resumed) == course(whole)


def test_it_ends_with_its_best_weights_once_it_may_not_go_back_again(
    make: Make, tmp_path: Path, ruin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ruin(25, 99)
    record = train(make(**STEPS), tmp_path / "run").record()
    assert record.status == "stopped early"
    assert [back.to_step for back in record.rollbacks] == [20, 20, 20]
    assert [back.lr for back in record.rollbacks] == pytest.approx([5e-3 / 3, 5e-3 / 9, 0])
    assert record.best_step == 20
    assert "It ended there, with the weights of step 20" in capsys.readouterr().err


def test_what_collapses_before_it_has_learnt_starts_again_and_then_is_an_error(
    make: Make, tmp_path: Path, ruin: Any
) -> None:
    ruin(4, 1)
    assert train(make(**STEPS), tmp_path / "once").record().rollbacks[0].to_step == 0
    ruin(4, 99)
    said = refused(PtuneError, make(**STEPS), tmp_path / "run")
    assert "It had learnt nothing before, at no rate down to 0.00056: lower train.lr further" in said


def test_zero_rollbacks_watch_for_nothing(make: Make, tmp_path: Path, ruin: Any) -> None:
    ruin(25, 99)
    recipe: Recipe = make(**STEPS, rollbacks=0)
    assert train(recipe, tmp_path / "run").record().rollbacks == ()
    assert not (tmp_path / "run" / "checkpoints" / "step-0").exists()
