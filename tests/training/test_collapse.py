"""Recorded trainings that collapsed are seen, those that only looked bad on the way are not; going back replays exactly."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.training.checkpoint import State
from ptune.training.guards.collapse import Course, Levels, Watched

CURVES = {
    curve["name"]: curve
    for line in (Path(__file__).parent / "curves" / "sentiment.jsonl").read_text().splitlines()
    for curve in [json.loads(line)]
}


def alarms(
    losses: list[float],
    validation: Callable[[int], float | None],
    levels: Levels,
    *,
    every: int = 25,
    may_be_slow: bool = True,
) -> Iterator[tuple[int, str]]:
    """The step and words of each collapse that a loop would see. validation: the validation loss after a step."""
    course, best = Course(), None
    for step, loss in enumerate(losses, start=1):
        course = Course.from_record(json.loads(json.dumps(asdict(course.after(loss)))))
        moment = Watched(step, len(losses), course, levels, best)
        suspicious = moment.suspicious()
        if suspicious:
            course = Course(**{**vars(course), "suspected": step})
        if suspicious or step % every == 0 or step == len(losses):
            measured = validation(step)
            if (told := moment.collapse(measured, may_be_slow=may_be_slow)) is not None:
                yield step, told
            if measured is not None:
                best = measured if best is None else min(best, measured)


def recorded(name: str) -> list[tuple[int, str]]:
    curve = CURVES[name]
    levels = Levels(curve["training_level"], curve["validation_level"])

    def validation(step: int) -> float:
        """The next one that was measured."""
        return next(loss for at, loss in curve["validations"] if at >= step)

    return list(alarms(curve["losses"], validation, levels, every=60))


@pytest.mark.parametrize("name", ["mails_ten_times", "messages_ten_times", "tweets_ten_times"])
def test_a_rate_ten_times_too_high_is_seen_before_half_of_the_steps(name: str) -> None:
    (step, told), *_ = recorded(name)
    assert step <= 60
    assert "the mean loss of the last 20 steps is" in told


@pytest.mark.parametrize("name", ["mails_0", "mails_1"])
def test_a_training_that_spikes_and_learns_is_left_alone(name: str) -> None:
    assert recorded(name) == []


def test_a_loss_that_comes_back_to_that_of_the_labels_shares() -> None:
    """A stranger's run: .06 at step 19, spikes, then .65 for good; the entropy of the labels is .61."""
    dice = random.Random(0)
    falling = [0.69 * (0.88**step) for step in range(20)]
    losses = [
        *falling,
        *[dice.uniform(0.3, 1.6) for _ in range(12)],
        *[0.65 + dice.gauss(0, 0.12) for _ in range(88)],
    ]
    levels = Levels(0.61, 0.61)
    (step, told), *_ = alarms(losses, lambda step: 0.08 if step < 24 else 0.65, levels, every=75)
    assert step < 60
    assert "it began at 0.6" in told
    assert "always giving the same answer is 0.61" in told


def test_a_loss_that_comes_down_to_the_labels_shares_and_stays_there_may_be_slow() -> None:
    """Words: every one is O from step 10 on, and it may take hundreds of steps before one is not."""
    dice = random.Random(0)
    losses = [2.7, 2.7, 2.7, 2.5, 2.0, 1.5, 0.7, *[0.4 + dice.gauss(0, 0.15) for _ in range(153)]]
    assert list(alarms(losses, lambda step: 0.39, Levels(0.4, 0.39), every=40)) == []


@pytest.mark.parametrize("may_be_slow", [True, False])
def test_spikes_and_then_the_labels_shares_ask_for_a_lower_rate_but_end_nothing(may_be_slow: bool) -> None:
    dice = random.Random(0)
    losses = [
        0.69,
        0.69,
        0.68,
        0.6,
        0.5,
        1.1,
        0.9,
        1.0,
        1.0,
        0.9,
        *[0.61 + dice.gauss(0, 0.05) for _ in range(90)],
    ]
    seen = list(alarms(losses, lambda step: 0.62, Levels(0.61, 0.61), may_be_slow=may_be_slow))
    assert [step for step, _ in seen] == ([50, 75, 100] if may_be_slow else [])


def test_without_labels_a_loss_that_returns_to_its_start() -> None:
    dice = random.Random(1)
    losses = [4.5 - 0.8 * min(1.0, step / 60) + dice.gauss(0, 0.25) for step in range(120)]
    losses += [4.6 + dice.gauss(0, 0.25) for _ in range(80)]
    seen = list(alarms(losses, lambda step: 3.8 if step <= 120 else 4.6, Levels()))
    assert seen[0][0] in range(121, 160)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0.2, 0.85), st.floats(0.0, 1.0), st.booleans())
def test_noise_and_learning_by_heart_raise_no_alarm(
    seed: int, end: float, heart: float, labels: bool
) -> None:
    """Batches between half and one and a half times a loss that falls from 1 to `end`; validation may rise far above it."""
    dice = random.Random(seed)
    mean = [end + (1 - end) * math.exp(-step / 40) for step in range(200)]
    losses = [value * dice.uniform(0.5, 1.5) for value in mean]
    losses[:3] = [1.0, 1.0, 1.0]
    levels = Levels(0.95, 0.95) if labels else Levels()

    def validation(step: int) -> float:
        return mean[step - 1] + (2 * heart * step / 200 if end < 0.6 else 0.0)

    assert list(alarms(losses, validation, levels)) == []


def test_a_rate_that_is_too_low_is_no_collapse() -> None:
    dice = random.Random(2)
    losses = [0.69 + dice.gauss(0, 0.02) for _ in range(200)]
    assert list(alarms(losses, lambda step: 0.69, Levels(0.38, 0.36))) == []


def test_a_suspicion_that_is_not_confirmed_costs_one_validation_in_twenty_steps() -> None:
    asked = list[int]()

    def validation(step: int) -> float:
        asked.append(step)
        return 0.1

    losses = [1.0] * 3 + [0.1] * 20 + [1.1] * 60
    assert list(alarms(losses, validation, Levels(1.0, 1.0), every=1000)) == []
    assert len(asked) <= 5


def test_the_course_is_the_same_after_json() -> None:
    dice, course = random.Random(3), Course()
    for _ in range(40):
        course = course.after(dice.random() / 3)
        again: Any = json.loads(json.dumps(asdict(course)))
        assert Course.from_record(again) == course


def test_long_rows_after_short_ones_are_no_collapse() -> None:
    """Losses of a pass that goes from easy rows to hard ones say nothing, and are no measure of later ones."""
    state = State()
    for loss in [*[3.0 - step / 40 for step in range(60)], *[3.0] * 20]:
        state = state.after(loss, 1.0, comparable=False)
    assert not Watched(80, 160, state.course, Levels(), 3.2).suspicious()
    assert Levels().learnt(state.course.first, 3.1)  # so that its checkpoint is one to go back to
    for _ in range(40):
        state = state.after(3.0, 1.0)
    assert not Watched(120, 160, state.course, Levels(), 3.1).suspicious()
    for _ in range(20):
        state = state.after(4.5, 1.0)
    assert Watched(140, 160, state.course, Levels(), 3.1).suspicious()
