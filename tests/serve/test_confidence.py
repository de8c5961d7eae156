"""Bounds of a mean that hold however often somebody looks: by simulation, and for any scores."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.formats.bundle import Alias, Canary, Decide
from ptune_serve.rollout.confidence import MeanOfScores
from ptune_serve.rollout.trials import Trial

RUNS, LOOKS = 400, 300


def ever_wrong(mean: float, error: float, seed: int) -> bool:
    drawn, scores = random.Random(seed), MeanOfScores(error)
    for _ in range(LOOKS):
        scores.add(float(drawn.random() < mean))
        if not scores.lower <= mean <= scores.upper:
            return True
    return False


@pytest.mark.parametrize("mean", [0.02, 0.5, 0.9])
def test_the_mean_is_hardly_ever_outside(mean: float) -> None:
    error = 0.2
    wrong = sum(ever_wrong(mean, error, seed) for seed in range(RUNS))
    assert wrong <= error * RUNS + 3 * (error * (1 - error) * RUNS) ** 0.5


def test_a_usual_interval_would_be_wrong_far_more_often() -> None:
    """That the test above can fail: 80 % intervals by the normal approximation, looked at after each score."""
    wrong = 0
    for seed in range(RUNS):
        drawn, total = random.Random(seed), 0
        for count in range(1, LOOKS + 1):
            total += drawn.random() < 0.5
            if count >= 10 and abs(total / count - 0.5) > 1.28 * (0.25 / count) ** 0.5:
                wrong += 1
                break
    assert wrong > 2 * 0.2 * RUNS


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_bounds_only_narrow(given_scores: list[float]) -> None:
    scores, before = MeanOfScores(0.05), (0.0, 1.0)
    for score in given_scores:
        scores.add(score)
        assert scores.lower >= before[0]
        assert scores.upper <= before[1]
        before = scores.lower, scores.upper
    assert scores.mean == pytest.approx(sum(given_scores) / len(given_scores))


def test_it_becomes_narrow() -> None:
    """After 1,000 scores about as narrow as twice a usual 95 % interval, after a few it says nothing."""
    drawn, scores = random.Random(0), MeanOfScores(0.05)
    scores.add(1.0)
    assert scores.upper - scores.lower > 0.9
    for _ in range(1000):
        scores.add(float(drawn.random() < 0.7))
    usual = 2 * 1.96 * (0.7 * 0.3 / 1000) ** 0.5
    assert usual < scores.upper - scores.lower < 3 * usual


@pytest.mark.parametrize(
    ("old", "new", "decision"),
    [(0.7, 0.9, "promoted"), (0.7, 0.7, "promoted"), (0.9, 0.5, "rolled back")],
)
def test_the_better_one_stays(old: float, new: float, decision: str) -> None:
    drawn = random.Random(1)
    trial = Trial("old", Canary(name="new", share=0.5, decide=Decide(margin=0.1, error=0.05)))
    for _ in range(5000):
        for name, mean in (("old", old), ("new", new)):
            trial.scores[name].add(float(drawn.random() < mean))
        if trial.decision():
            break
    assert trial.decision() == decision


def test_no_worse_is_not_promoted_by_luck() -> None:
    """A canary worse by more than the margin is promoted in at most the error that was allowed, over all looks."""
    promoted = 0
    for seed in range(200):
        drawn = random.Random(seed)
        trial = Trial("old", Canary(name="new", share=0.5, decide=Decide(margin=0.05, error=0.2)))
        for _ in range(200):
            trial.scores["old"].add(float(drawn.random() < 0.8))
            trial.scores["new"].add(float(drawn.random() < 0.74))
            if (decided := trial.decision()) is not None:
                promoted += decided == "promoted"
                break
    assert promoted <= 0.2 * 200


def test_a_canary_without_a_rule_reads_as_before() -> None:
    assert Alias.model_validate({"name": "a", "canary": {"name": "b", "share": 0.1}}).canary == Canary(
        name="b", share=0.1
    )
