"""Which trials of a search are broken off by their validations, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.searching import search_of, searched

from ptune.formats.run import Run
from ptune.tuning import trial
from ptune.tuning.outcome import Tried
from ptune.tuning.search import hopeless
from ptune.tuning.study import open_study


def last_of(trial: Tried) -> float:
    assert trial.last is not None
    return trial.last


def test_a_hopeless_trial_is_pruned(tmp_path):
    """Trials that are worse than half of the others at their second validation do not see their last."""

    def validations(one: Tried) -> int:
        return (folder / f"trial-{one.number}" / "metrics.jsonl").read_text().count("validation_loss")

    for pause_s in (0.15, 0.6, 2.4):  # until the search, on a machine however busy, looks between two of them
        folder = tmp_path / str(pause_s)
        outcome = searched(search_of(folder, trials=9, pause_s=pause_s))
        pruned = [one for one in outcome.tried if one.state == "pruned"]
        if pruned and all(validations(one) < 4 for one in pruned):
            break
    assert pruned
    for one in pruned:
        assert validations(one) < 4
        others = [other for other in outcome.tried if other.number < 5]
        assert last_of(one) > min(map(last_of, others))
    assert outcome.best is not None
    assert outcome.best.state == "finished"
    assert 'class="pruned"' in (folder / "report.html").read_text()


def test_no_trial_is_pruned_by_its_first_validation(tmp_path):
    """However bad it is: the second one may be better than the median."""
    study = open_study(search_of(tmp_path))
    for _ in range(5):
        trial = study.ask()
        for at, value in ((1, 1.0), (2, 0.5)):
            trial.report(value, at)
        study.tell(trial, 0.5)
    late, hopeless = study.ask(), study.ask()
    for trial in (late, hopeless):
        trial.report(9.0, 1)
        assert not trial.should_prune()
    late.report(0.4, 2)
    hopeless.report(8.0, 2)
    assert (late.should_prune(), hopeless.should_prune()) == (False, True)


class GoesBack:
    """A training that is seen after each of these validations: once it goes back, and makes others."""

    LINES = ([3.0], [3.0, 2.0], [3.0, 2.0, 9.0], [3.0], [3.0, 1.5], [3.0, 1.5, 1.0, 0.5])

    def __init__(self, path: Path) -> None:
        self._path, self._looks = path, 0

    def poll(self) -> int | None:
        values = self.LINES[self._looks]
        lines = [{"step": step, "validation_loss": value} for step, value in enumerate(values, start=1)]
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._looks += 1
        return 0 if self._looks == len(self.LINES) else None


def test_validations_after_a_collapse_have_the_numbers_of_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second and third were not told again, so the study kept those of what was given up."""
    monkeypatch.setattr(trial, "LOOK_EVERY_S", 0)
    run = Run(tmp_path / "run")
    seen: list[tuple[int, float]] = []

    def validated(at: int, value: float) -> bool:
        seen.append((at, value))
        return False

    process: Any = GoesBack(run.metrics_path)
    asked = trial._watch(process, run, "validation_loss", validated, lambda: False)
    assert seen == [(1, 3.0), (2, 2.0), (3, 9.0), (2, 1.5), (3, 1.0), (4, 0.5)]
    assert (asked.why, asked.validations) == ("", 4)


def test_the_newest_validation_of_a_number_counts(tmp_path: Path) -> None:
    study = open_study(search_of(tmp_path))
    for _ in range(5):
        one = study.ask()
        for at, value in enumerate((4.0, 3.0, 2.0, 1.0), start=1):
            one.report(value, at)
        study.tell(one, 1.0)
    back = study.ask()
    told = [(1, 4.0), (2, 2.9), (3, 1.9), (2, 3.5), (3, 2.5)]
    assert [hopeless(back, at, value) for at, value in told] == [False, False, False, False, True]
    assert study.trials[-1].intermediate_values == {1: 4.0, 2: 3.5, 3: 2.5}


def test_what_becomes_of_trials_does_not_depend_on_when_one_looks(tmp_path, monkeypatch):
    """Before each validation of a trial, or after all of them."""
    states = []
    for look_s in (0.01, 2.0):
        monkeypatch.setattr(trial, "LOOK_EVERY_S", look_s)
        outcome = searched(search_of(tmp_path / str(look_s), trials=8, pause_s=0.15))
        states.append([one.state for one in outcome.tried])
    assert states[0] == states[1]
    assert {*states[0]} == {"finished", "pruned"}
