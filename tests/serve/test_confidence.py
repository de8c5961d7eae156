"""Bounds of a mean that hold however often somebody looks: by simulation, and for any scores."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.formats.bundle import Alias, ByLoss, ByUsers, Canary
from ptune_serve.rollout.confidence import BoundedMean
from ptune_serve.rollout.evidence import Decision, Loss, PairedLosses, UserScores

RUNS, LOOKS = 150, 200


def ever_wrong(mean: float, error: float, seed: int) -> bool:
    drawn, scores = random.Random(seed), BoundedMean(error / 2)
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
    scores, before = BoundedMean(0.025), (0.0, 1.0)
    for score in given_scores:
        scores.add(score)
        assert scores.lower >= before[0]
        assert scores.upper <= before[1]
        before = scores.lower, scores.upper
    assert scores.mean == pytest.approx(sum(given_scores) / len(given_scores))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 7.0)])
def test_bounds_are_in_the_units_of_the_values(low: float, high: float) -> None:
    drawn, values = random.Random(3), BoundedMean(0.05, low, high)
    for _ in range(500):
        values.add(low + (high - low) * float(drawn.random() < 0.25))
    assert low < values.lower < low + (high - low) * 0.25 < values.upper < high


def test_it_becomes_narrow() -> None:
    """After 1,000 scores about as narrow as twice a usual 95 % interval, after a few it says nothing."""
    drawn, scores = random.Random(0), BoundedMean(0.025)
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
    scores = UserScores(ByUsers(margin=0.1, error=0.05), "old", "new")
    for _ in range(5000):
        for name, mean in (("old", old), ("new", new)):
            scores.of[name].add(float(drawn.random() < mean))
        if scores.decision():
            break
    assert scores.decision() == decision


def test_no_worse_is_not_promoted_by_luck() -> None:
    """A canary worse by more than the margin is promoted in at most the error that was allowed, over all looks."""
    promoted = 0
    for seed in range(RUNS):
        drawn = random.Random(seed)
        scores = UserScores(ByUsers(margin=0.05, error=0.2), "old", "new")
        for _ in range(200):
            scores.of["old"].add(float(drawn.random() < 0.8))
            scores.of["new"].add(float(drawn.random() < 0.74))
            if (decided := scores.decision()) is not None:
                promoted += decided == "promoted"
                break
    assert promoted <= 0.2 * RUNS


def compared(
    apart: Callable[[random.Random], float], margin: float, error: float, seed: int, texts: int = 200
) -> tuple[Decision | None, int]:
    """What losses that are so far apart, in nats per token, decide; and after how many texts, looked at after each."""
    drawn = random.Random(seed)
    losses = PairedLosses(ByLoss(texts="x", margin=margin, error=error), "old", "new")
    for number in range(texts):
        tokens = drawn.randint(1, 50)
        shared = drawn.expovariate(0.5)  # of hard texts and easy ones, which pairing takes out
        difference = apart(drawn)
        losses.add(Loss(shared * tokens, tokens), Loss((shared + difference) * tokens, tokens))
        if (decided := losses.decision()) is not None:
            return decided, number + 1
    return None, texts


def heavy_tailed(drawn: random.Random) -> float:
    """Mean 0: mostly a little better, now and then much worse."""
    return 0.9 if drawn.random() < 0.1 else -0.1


@pytest.mark.parametrize(
    "apart",
    [lambda drawn: drawn.gauss(0, 0.1), lambda drawn: drawn.choice((-0.4, 0.4)), heavy_tailed],
    ids=["normal", "two values", "heavy tail"],
)
@pytest.mark.parametrize("by", ["rolled back", "promoted"])
def test_a_false_decision_is_as_rare_as_was_asked(apart: Callable[[random.Random], float], by: str) -> None:
    """With no difference nothing is rolled back, and with one of the margin nothing is promoted, but for the error."""
    error, margin = 0.2, 0.05
    shift = 0.0 if by == "rolled back" else margin
    false = sum(
        compared(lambda drawn: apart(drawn) + shift, margin, error, seed)[0] == by for seed in range(RUNS)
    )
    assert false <= error * RUNS + 3 * (error * (1 - error) * RUNS) ** 0.5


@pytest.mark.parametrize(
    ("apart", "decision", "most"),
    [(0.0, "promoted", 400), (0.1, "rolled back", 120), (-0.1, "promoted", 120)],
)
def test_what_differs_is_found_within_a_few_hundred_texts(apart: float, decision: str, most: int) -> None:
    for seed in range(10):
        found, took = compared(lambda drawn: drawn.gauss(apart, 0.1), 0.02, 0.05, seed, 2000)
        assert found == decision
        assert took < most


def test_a_few_texts_that_are_far_apart_do_not_decide() -> None:
    losses = PairedLosses(ByLoss(texts="x"), "old", "new")
    for _ in range(2):
        losses.add(Loss(10, 10), Loss(1e6, 10))
    assert losses.decision() is None
    assert losses.difference.mean == 1.0
    assert losses.per_token() == {"old": 1.0, "new": 1e5}


def test_other_tokens_of_the_same_text_are_no_difference() -> None:
    """A canary whose own tokens make two of one: the text is as probable as before."""
    losses = PairedLosses(ByLoss(texts="x"), "old", "new")
    losses.add(Loss(3.0, 10), Loss(3.0, 5))
    assert losses.difference.mean == pytest.approx(0.0)
    assert losses.per_token() == {"old": 0.3, "new": 0.6}


def test_a_canary_without_a_rule_reads_as_before() -> None:
    assert Alias.model_validate({"name": "a", "canary": {"name": "b", "share": 0.1}}).canary == Canary(
        name="b", share=0.1
    )
