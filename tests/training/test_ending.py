"""A training that ended early says why, and which step was kept."""

from __future__ import annotations

import pytest

from ptune.config.recipe import Train
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import Rollback, RunRecord
from ptune.training.checkpoint import State
from ptune.training.ending import told

PATIENT = State(step=130, best_step=50, best_loss=0.00568, worse=8)


def test_patience_ran_out() -> None:
    assert told(Train(patience=8), PATIENT, "stopped early", 200, "loss") == (
        "Stopped early after step 130 of 200: 8 validations in a row were no better than step 50 (train.patience 8)."
        " Step 50 was kept: its validation loss was the lowest, 0.00568."
    )


def test_a_reward_is_the_highest() -> None:
    state = State(step=9, best_step=6, best_loss=-0.75, worse=1)
    assert told(Train(), state, "finished", 9, "reward") == (
        "Step 6 was kept: its validation reward was the highest, 0.75."
    )


@pytest.mark.parametrize(
    ("state", "ending"),
    [
        (PATIENT, "interrupted"),
        (State(step=20, best_step=20, best_loss=1.0), "finished"),
        (State(step=20), "finished"),
    ],
)
def test_nothing_to_explain(state: State, ending: str) -> None:
    assert told(Train(), state, ending, 20, "loss") == ""  # type: ignore[arg-type]


def test_other_reasons() -> None:
    collapsed = State(step=30, best_step=10, best_loss=1.0, rollbacks=(Rollback(30, 10, 0.0, "it rose"),))
    assert "30 of 99: training had collapsed. Step 10" in told(
        Train(), collapsed, "stopped early", 99, "loss"
    )
    asked = State(step=30, best_step=30, best_loss=1.0)
    assert "it was asked to end. Step 30 was kept" in told(
        Train(patience=8), asked, "stopped early", 99, "loss"
    )


def test_a_run_of_before_says_what_it_knows() -> None:
    base = BaseIdentity(source="tiny", hash="0" * 64, dtype="float32")
    record = RunRecord(
        created="", base=base, steps=130, planned_steps=200, best_step=50, status="stopped early"
    )
    assert record.how_it_ended() == "Stopped early after step 130 of 200. Step 50 was kept."
    assert record.model_copy(update={"status": "finished"}).how_it_ended() == ""
    assert record.model_copy(update={"ending": "So it was."}).how_it_ended() == "So it was."
