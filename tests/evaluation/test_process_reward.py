"""Figures of judged steps, against counts made by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.evaluation.process_reward.measures import first_wrong, measure

R, W = "right", "wrong"
ANSWERS = st.lists(
    st.lists(st.tuples(st.sampled_from([R, W]), st.sampled_from([R, W, None])), min_size=1, max_size=5),
    min_size=1,
    max_size=12,
)


def test_counts_by_hand() -> None:
    gold = [[R, R], [R, W, W], [W, R], [R], [R, W]]
    said: list[list[str | None]] = [[R, R], [R, W, R], [R, W], [W], [R, None]]
    found = measure(gold, said).metrics
    assert found["step_accuracy"] == pytest.approx(5 / 10)
    assert found["first_wrong_found"] == pytest.approx(1 / 3)  # only of the second answer
    assert found["right_kept"] == pytest.approx(1 / 2)
    assert found["first_wrong_f1"] == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


def test_shares_of_answers_have_the_exact_interval() -> None:
    gold, said = [[W]] * 7 + [[R]] * 10, [[W]] * 7 + [[R]] * 5 + [[W]] * 5
    found = measure(gold, said)
    assert found.intervals["first_wrong_found"] == pytest.approx((0.025 ** (1 / 7), 1.0))
    low, high = found.intervals["right_kept"]
    assert low == pytest.approx(1 - high)  # of 5 of 10
    assert found.intervals["step_accuracy"][0] < 12 / 17 < found.intervals["step_accuracy"][1]


def test_answers_without_a_wrong_step_say_nothing_about_finding_one() -> None:
    assert set(measure([[R, R], [R]], [[R, W], [R]]).metrics) == {"step_accuracy", "right_kept"}


@given(ANSWERS)
def test_figures_are_those_of_a_plain_count(answers: list[list[tuple[str, str | None]]]) -> None:
    gold = [[one for one, _ in answer] for answer in answers]
    said = [[other for _, other in answer] for answer in answers]
    found = measure(gold, said).metrics
    steps = [(one, other) for answer in answers for one, other in answer]
    assert found["step_accuracy"] == pytest.approx(sum(a == b for a, b in steps) / len(steps))
    faulty = [at for at, row in enumerate(gold) if W in row]
    assert ("first_wrong_found" in found) == bool(faulty)
    if faulty:
        hits = sum(W in said[at] and said[at].index(W) == gold[at].index(W) for at in faulty)
        assert found["first_wrong_found"] == pytest.approx(hits / len(faulty))
    whole = [at for at in range(len(gold)) if at not in faulty]
    if whole:
        assert found["right_kept"] == pytest.approx(sum(W not in said[at] for at in whole) / len(whole))


def test_the_first_wrong_step() -> None:
    assert [first_wrong(row) for row in ([R, W, W], [R, None], [None, W])] == [1, None, 1]


def test_a_bundle_is_judged_without_torch() -> None:
    script = "import sys, ptune.evaluation.process_reward.evaluate; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
