"""What Try it shows of what a side says."""

from __future__ import annotations

import pytest

from ptune.studio.judge.said import answer
from ptune.studio.judge.try_it import _so_far


@pytest.mark.parametrize("number", [-2.5, 0.4321, 12.0])
def test_a_regressors_number_is_no_share_whatever_its_size(number: float) -> None:
    html = answer("tuned", {"scores": {"<quality>": number}, "numbers": True}, "a room")
    assert f"&lt;quality&gt;: <b>{number:.4g}</b>" in html
    assert "%" not in html
    assert "bar" not in html


def test_probabilities_are_shares() -> None:
    html = answer("tuned", {"scores": {"good": 0.75, "bad": 0.25}}, "a room")
    assert "75.0%" in html
    assert "25.0%" in html


def test_texts_that_were_compared_stay_so_when_the_answer_is_broken_off() -> None:
    before, after = _so_far(
        {"base": {"scores": {"Returns are free.": 0.7512}}}, "how to return", compares=True
    )
    assert "0.751" in before
    assert "%" not in before
    assert after == ""
