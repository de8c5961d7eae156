"""Whether a model is better than a simple one: by the intervals of both, in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptune.formats.run import Run
from ptune.studio.judge.evaluated import tables
from ptune.studio.judge.verdict import verdict


def _labels(
    own: tuple[float, ...], simple: tuple[float, ...], metric: str = "accuracy", **more: Any
) -> dict[str, Any]:
    def side(value: float, *between: float) -> dict[str, Any]:
        metrics = {metric: value, "extra": 0.123}
        return {"metrics": metrics, "intervals": {metric: list(between)} if between else {}}

    return {
        "split": "validation", "examples": 37, "task": "text-classification", "problem": "single", "headline": [metric],
        "sides": {"torch": side(*own)}, "baselines": {"words": side(*simple), "commonest label": side(0.4, 0.3, 0.5)},
        "requirements": [], **more,
    }  # fmt: skip


def test_intervals_that_overlap_tell_nothing() -> None:
    told = verdict(_labels((1.0, 0.905, 1.0), (0.946, 0.865, 1.0)))
    assert told.startswith(
        "Whether the model is better than the best simple one here (words) cannot be told from 37 rows"
    )
    assert "100.0% (90.5% to 100.0%) against 94.6% (86.5% to 100.0%)" in told


def test_intervals_that_lie_apart_tell_that_it_is_better() -> None:
    told = verdict(_labels((0.97, 0.91, 0.99), (0.7, 0.6, 0.8)))
    assert told.startswith("The model is better than the best simple one here (words): accuracy 97.0%")


def test_of_errors_the_lower_is_better() -> None:
    errors = _labels((1.0, 0.9, 1.1), (2.0, 1.8, 2.2), "mae")
    errors["baselines"].pop("commonest label")
    assert verdict(errors).startswith("The model is better")
    errors["baselines"]["words"]["intervals"]["mae"] = [1.05, 2.2]
    assert verdict(errors).startswith("Whether")


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        (_labels((0.9,), (0.7, 0.6, 0.8)), "how sure that is, is not known"),
        (_labels((0.3, 0.2, 0.4), (0.7, 0.6, 0.8), no_better="no better than words"), ""),
        ({"before": {"loss": 3.5}, "after": {"loss": 2.25}}, "loss a token 2.250, before 3.500"),
        ({"split": "test"}, ""),
    ],
)
def test_without_intervals_nothing_is_claimed(evaluation: dict[str, Any], told: str) -> None:
    found = verdict(evaluation)
    assert told in found
    assert bool(told) == bool(found)


def test_the_sentence_stands_on_top_and_figures_beyond_the_main_ones_are_folded(tmp_path: Path) -> None:
    html = tables(_labels((0.97, 0.91, 0.99), (0.7, 0.6, 0.8)), Run(tmp_path), tmp_path)
    above, folded = html.split("<details>")
    assert above.index("The model is better") < above.index("<table>") < above.index("the best in its row")
    assert ">extra<" in folded
    assert ">extra<" not in above
