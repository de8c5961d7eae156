"""Figures of pairs of answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ptune.codecs.chat import Example
from ptune.config.preference import Preference
from ptune.data.shapes.preferences import Pair
from ptune.evaluation.pair_titles import titles
from ptune.evaluation.pairs import compared, table


def answer(targets: int) -> Example:
    return Example(tuple(range(targets + 1)), (False, *[True] * targets))


# The better answers have 10 and 2 tokens, the worse ones 2 and 4.
PAIRS = [Pair(answer(10), answer(2), "test", 0), Pair(answer(2), answer(4), "test", 1)]
BEFORE = np.array([[-30.0, -8.0], [-6.0, -8.0]])
AFTER = np.array([[-25.0, -6.0], [-4.0, -9.0]])  # gained 5 and 2, 2 and -1; a token 0.5 and 1, 1 and -0.25


def figures(loss: str) -> dict[str, Any]:
    found = compared(Preference(loss=loss), PAIRS, BEFORE, AFTER)  # type: ignore[arg-type]
    return found | {name: one["value"] for name, one in found["tuned"].items()}


@pytest.mark.parametrize("loss", ["simpo", "ipo", "orpo"])
def test_losses_of_means_are_told_by_how_much_a_token_gained_more(loss: str) -> None:
    """What was printed beside such a share was the difference of sums, 3 here, which a worse answer that is short may win."""
    found = figures(loss)
    assert found["preferred"] == 0.5
    assert found["margin_a_token"] == pytest.approx((-0.5 + 1.25) / 2)
    assert found["margin"] == pytest.approx((3 + 3) / 2)
    assert list(titles(found).items())[:3] == [
        ("preferred", "better answer gained more a token"),
        ("margin_a_token", "by, in nats a token"),
        ("margin", "better answer gained more as a whole by, in nats"),
    ]
    shown = table(found)
    assert [cell.split()[0] for cell in shown.columns[2].cells][1:3] == ["0.38", "3.00"]  # type: ignore[union-attr]


def test_losses_of_sums_compare_whole_answers() -> None:
    found = figures("dpo")
    assert (found["preferred"], found["margin"]) == (1.0, 3.0)
    assert titles(found)["margin"] == "by, in nats"
    assert "margin_a_token" not in found
