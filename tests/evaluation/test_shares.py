"""A share of rows has an exact binomial interval, also where every row is right or none is; other figures the bootstrap's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from ptune.evaluation import judged_titles, pair_titles
from ptune.evaluation.classification import bootstrap, multi, single
from ptune.evaluation.retrieval import measures

NAMES = ("delivery", "refund", "product question")


def exact(successes: int, trials: int) -> tuple[float, float]:
    found = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    return found.low, found.high


def certain(labels: np.ndarray) -> np.ndarray:
    """[rows, 3] probabilities of a model that is quite sure of these labels."""
    return np.eye(3)[labels] * 0.96 + 0.01


def test_37_of_37_are_not_certainly_100_percent() -> None:
    gold = np.array([0] * 15 + [1] * 15 + [2] * 7)
    found = single.measure(NAMES, gold, certain(gold))
    assert found.metrics["accuracy"] == 1.0
    assert found.intervals["accuracy"] == pytest.approx(exact(37, 37), abs=1e-9)
    assert found.intervals["accuracy"][0] < 0.91
    assert found.details["class_intervals"]["product question"] == {
        "precision": pytest.approx(exact(7, 7), abs=1e-9),
        "recall": pytest.approx(exact(7, 7), abs=1e-9),
    }
    assert "f1_macro" not in found.intervals, (
        "resamples of rows that are all right say nothing about the others"
    )


def test_shares_of_a_mixed_result() -> None:
    gold = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    said = np.array([0, 0, 1, 0, 1, 1, 0, 2, 2, 0])
    found = single.measure(NAMES, gold, certain(said))
    assert found.intervals["accuracy"] == pytest.approx(exact(7, 10), abs=1e-9)
    intervals = found.details["class_intervals"]
    assert intervals["delivery"]["recall"] == pytest.approx(exact(3, 4), abs=1e-9)
    assert intervals["delivery"]["precision"] == pytest.approx(exact(3, 5), abs=1e-9)
    low, high = found.intervals["f1_macro"]
    assert low < found.metrics["f1_macro"] < high


def test_a_label_that_is_never_given_has_no_precision() -> None:
    gold, said = np.array([0, 0, 1, 2]), np.array([0, 0, 0, 0])
    found = single.measure(NAMES, gold, certain(said))
    intervals = found.details["class_intervals"]
    assert found.intervals["recall_weighted"] == found.intervals["accuracy"], "they are the same share"
    assert intervals["refund"] == {"recall": pytest.approx(exact(0, 1), abs=1e-9)}


def test_rounding_is_no_interval() -> None:
    """The balanced accuracy of who always says the same is a third in each resample, but for the last bits."""
    gold = np.array([0] * 15 + [1] * 15 + [2] * 7)
    found = single.measure(NAMES, gold, certain(np.zeros(37, int)))
    assert found.metrics["balanced_accuracy"] == pytest.approx(1 / 3)
    assert "balanced_accuracy" not in found.intervals


def test_several_labels_a_row() -> None:
    gold = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    found = multi.measure(("a", "b"), gold, np.where(gold, 0.9, 0.1))
    assert found.intervals["subset_accuracy"] == pytest.approx(exact(4, 4), abs=1e-9)
    assert found.details["class_intervals"]["a"]["recall"] == pytest.approx(exact(2, 2), abs=1e-9)


def test_queries_that_all_find_their_passage() -> None:
    scores = np.eye(12, dtype=np.float32)
    found = measures.measure(scores, [{at} for at in range(12)])
    assert found.intervals["recall@1"] == pytest.approx(exact(12, 12), abs=1e-9)


def test_means_of_yes_and_no_are_shares() -> None:
    found = bootstrap.means(
        {"preferred": np.ones(74, bool), "margin": np.arange(74.0), "same": np.full(74, 2.5)}
    )
    assert found["preferred"]["interval"] == pytest.approx(exact(74, 74), abs=1e-9)
    low, high = found["margin"]["interval"]
    assert low < 36.5 < high
    assert found["same"]["interval"] is None
    assert pair_titles.cell("preferred", found) == "100.0% [95.1%, 100.0%]"
    assert pair_titles.cell("margin", {"margin": found["same"]}) == "2.50"
    assert judged_titles.cell("told_apart", {"told_apart": {"value": 1.0, "interval": None}}) == "100.0%"
