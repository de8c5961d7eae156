"""A model that no baseline is worse than is told so in red, and is exported only anyway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptune.cli.evaluate import after_run
from ptune.errors import PtuneError
from ptune.evaluation.no_better import judged, refuse_no_better
from ptune.evaluation.style import no_better
from ptune.formats.run import Run


def classified(accuracy: float, matrix: list[list[int]], **baselines: float) -> dict[str, Any]:
    return {
        "problem": "single",
        "headline": ["accuracy", "log_loss"],
        "metrics": {"accuracy": accuracy, "log_loss": 0.6},
        "labels": ["ham", "spam"],
        "details": {"confusion": matrix},
        "baselines": {name: {"metrics": {"accuracy": value}} for name, value in baselines.items()},
    }


def told(evaluation: dict[str, Any]) -> str:
    return str(judged(evaluation)["no_better"])


def test_the_best_baseline_is_named_and_a_single_answer_too() -> None:
    collapsed = classified(0.71, [[71, 0], [29, 0]], **{"commonest label": 0.71, "TF-IDF": 0.952})
    assert (
        told(collapsed)
        == "no better than TF-IDF: accuracy 71.0%, and TF-IDF has 95.2%; every row is given 'ham'"
    )
    assert told(classified(0.9, [[66, 5], [5, 24]], commonest=0.71, words=0.9)).startswith(
        "no better than words"
    )
    assert told(classified(0.91, [[66, 5], [4, 25]], commonest=0.71, words=0.9)) == ""


def test_lower_is_better_of_errors_and_of_a_chats_loss() -> None:
    numbers = {
        "problem": "regression",
        "headline": ["mae"],
        "metrics": {"mae": 2.0},
        "labels": [],
        "details": {},
        "baselines": {"commonest label": {"metrics": {"mae": 1.5}}},
    }
    assert "mean absolute error" in told(numbers) or "mae" in told(numbers)
    numbers["metrics"] = {"mae": 1.0}
    assert told(numbers) == ""
    assert "the base model has" in told({"before": {"loss": 3.0}, "after": {"loss": 3.2}})
    assert told({"before": {"loss": 3.0}, "after": {"loss": 2.9}}) == ""


def test_a_perfect_figure_is_no_reason_to_refuse_though_a_baseline_has_it_too() -> None:
    assert told(classified(1.0, [[10, 0], [0, 5]], commonest=0.667, words=1.0)) == ""
    assert told(classified(0.99, [[99, 1], [0, 0]], words=0.99)) != ""
    error = {"headline": ["mae"], "metrics": {"mae": 1.0}, "baselines": {"mean": {"metrics": {"mae": 1.0}}}}
    assert told({**classified(1.0, []), **error}) != "", "an error of 1 is not perfect"
    of_a_hundred = {
        "headline": ["chrf"],
        "metrics": {"chrf": 1.0},
        "baselines": {"copy": {"metrics": {"chrf": 1.0}}},
    }
    assert told({**classified(1.0, []), **of_a_hundred}) != "", "chrF goes up to 100"


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert told(classified(0.1, [[1, 1], [1, 1]])) == ""
    recommender = {
        "problem": "ranking",
        "headline": ["recall@10"],
        "metrics": {"recall@10": 0.716},
        "labels": [],
        "details": {},
        "baselines": {
            "popularity": {"metrics": {"recall@10": 0.1}},
            "item-kNN": {"metrics": {"recall@10": 0.716}},
        },
    }
    assert told(recommender) == ""


def test_the_report_has_it_in_red() -> None:
    assert (
        no_better({"no_better": "no better than <words>"})
        == "<p class=bad>This model is no better than &lt;words&gt;.</p>"
    )
    assert no_better({}) == no_better({"no_better": ""}) == ""


def test_export_asks_for_anyway(tmp_path: Path) -> None:
    run = Run(tmp_path)
    refuse_no_better(run)  # never evaluated: nothing is known
    run.evaluation_path.write_text(json.dumps({"no_better": "no better than words: accuracy 71.0%"}))
    with pytest.raises(PtuneError, match=r"is no better than words: accuracy 71.0%.*--anyway"):
        refuse_no_better(run)
    run.evaluation_path.write_text(json.dumps({"no_better": ""}))
    refuse_no_better(run)


def test_the_command_that_comes_next_is_not_refused() -> None:
    run = Path("runs/x")
    assert after_run(run, {"no_better": "no better than words"}, None) == "ptune export runs/x --anyway"
    assert after_run(run, {"no_better": ""}, None) == after_run(run, {}, None) == "ptune export runs/x"
    assert after_run(run, {"no_better": "no better than words"}, Path("bundles/x")) == "ptune serve bundles/x"
