"""Figures against tables worked by hand, against scikit-learn and seqeval called directly, and intervals that cover."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy import stats
from seqeval import metrics as seq
from sklearn import metrics as sk

from ptune.codecs.labels import Labels, Problem
from ptune.data.shapes.labelled import LabelledRow
from ptune.evaluation.classification import bootstrap, multi, regression, single, tags, weighted
from ptune.evaluation.classification.calibration import reliability
from ptune.evaluation.classification.mistakes import worst
from ptune.evaluation.classification.outcome import Outcome

NAMES = ("cat", "dog", "eel")


def softmax_of(chance: np.random.Generator, rows: int, labels: int) -> np.ndarray:
    return Labels(tuple(map(str, range(labels))), "single").scores(chance.normal(0, 2, (rows, labels)))


def counts_of(rows: int, seed: int, resamples: int = 5) -> np.ndarray:
    chance = np.random.default_rng(seed)
    drawn = [np.bincount(chance.integers(0, rows, rows), minlength=rows) for _ in range(resamples)]
    return np.array(drawn, np.float32)


def repeated(counts: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """One resample, written out row by row."""
    return [np.repeat(column, counts.astype(int), axis=0) for column in columns]


def test_single_by_hand() -> None:
    #            predicted cat dog eel     precision cat 2/3, dog 1/2, eel 1/1
    # gold cat             2   0   0       recall    cat 2/2, dog 1/2, eel 1/2
    # gold dog             1   1   0       F1        cat .8,  dog .5,  eel 2/3
    # gold eel             0   1   1
    gold = np.array([0, 0, 1, 1, 2, 2])
    scores = np.array(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0, 0, 1.0]]
    )
    found = single.measure(NAMES, gold, scores)
    assert found.metrics["accuracy"] == pytest.approx(4 / 6)
    assert found.metrics["balanced_accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found.metrics["precision_macro"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found.metrics["f1_macro"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert found.metrics["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.2, 0.8, 0.3, 1.0]).mean())
    assert found.details["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert found.classes["dog"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2.0}
    assert "top5_accuracy" not in found.metrics
    assert "roc_auc" not in found.metrics


def test_the_likeliest_five_of_equal_scores_begin_with_the_predicted_one() -> None:
    """Ten labels that are all as likely: the first is predicted, so five likeliest labels without it are none."""
    gold = np.array([0] * 30 + [9] * 10)
    found = single.measure(tuple("abcdefghij"), gold, np.full((40, 10), 0.1, np.float32))
    assert found.metrics["accuracy"] == found.metrics["top5_accuracy"] == 0.75
    test = stats.binomtest(30, 40).proportion_ci(method="exact")
    assert found.intervals["top5_accuracy"] == pytest.approx((test.low, test.high))


def test_one_label_that_a_row_may_have() -> None:
    """Right 2, missed 1, wrongly given 1: precision 2/3, recall 2/3; rows without it are no second label."""
    gold = np.array([[1], [1], [1], [0], [0], [0]], bool)
    scores = np.array([[0.9], [0.8], [0.1], [0.7], [0.2], [0.3]], np.float32)
    found = multi.measure(("toxic",), gold, scores)
    for name in ("precision", "recall", "f1"):
        assert found.metrics[f"{name}_micro"] == found.metrics[f"{name}_macro"] == pytest.approx(2 / 3)
        assert found.classes["toxic"][name] == pytest.approx(2 / 3)
    assert found.metrics["subset_accuracy"] == pytest.approx(4 / 6)
    expected = sk.average_precision_score(gold[:, 0], scores[:, 0])
    assert found.metrics["average_precision"] == pytest.approx(expected)
    low, high = found.intervals["f1_micro"]
    assert low < 2 / 3 < high


def test_calibration_by_hand() -> None:
    confidence, right = np.array([0.55, 0.56, 0.95, 0.97]), np.array([True, False, True, True])
    bins, error = reliability(confidence, right)
    assert [one["rows"] for one in bins] == [2, 2]
    assert [one["accuracy"] for one in bins] == [0.5, 1.0]
    assert error == pytest.approx(0.5 * abs(0.5 - 0.555) + 0.5 * abs(1 - 0.96))


@pytest.mark.parametrize("labels", [2, 3, 8])
def test_resampled_single_figures_are_those_of_sklearn(labels: int) -> None:
    chance = np.random.default_rng(labels)
    gold, scores = chance.integers(0, labels, 60), softmax_of(chance, 60, labels)
    scores[:20] = scores[20:40]  # ties
    counts = counts_of(60, labels)
    found = single.of_counts(gold, scores, binary=labels == 2)(counts)
    for at, drawn in enumerate(counts):
        g, s = repeated(drawn, gold, scores)
        said, every = s.argmax(axis=1), np.arange(labels)
        expected = {
            "accuracy": sk.accuracy_score(g, said),
            "log_loss": sk.log_loss(g, s / s.sum(axis=1, keepdims=True), labels=every),
            "ece": reliability(s.max(axis=1), said == g)[1],
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected["balanced_accuracy"] = sk.balanced_accuracy_score(g, said)
        for kind in ("macro", "weighted"):
            expected[f"precision_{kind}"] = sk.precision_score(g, said, average=kind, zero_division=0)
            expected[f"recall_{kind}"] = sk.recall_score(g, said, average=kind, zero_division=0)
            expected[f"f1_{kind}"] = sk.f1_score(g, said, average=kind, zero_division=0)
        if labels >= 6:
            expected["top5_accuracy"] = sk.top_k_accuracy_score(g, s, k=5, labels=every)
        if labels == 2:
            expected["roc_auc"] = sk.roc_auc_score(g, s[:, 1])
            expected["pr_auc"] = sk.average_precision_score(g, s[:, 1])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][at] == pytest.approx(value, abs=1e-5), name


def test_resampled_multi_figures_are_those_of_sklearn() -> None:
    chance = np.random.default_rng(1)
    gold, scores = chance.random((50, 4)) < 0.3, chance.random((50, 4))
    counts = counts_of(50, 1)
    found = multi.of_counts(gold, scores)(counts)
    for at, drawn in enumerate(counts):
        g, s = repeated(drawn, gold, scores)
        said = s >= 0.5
        assert found["f1_micro"][at] == pytest.approx(sk.f1_score(g, said, average="micro"), abs=1e-6)
        assert found["f1_macro"][at] == pytest.approx(sk.f1_score(g, said, average="macro"), abs=1e-6)
        assert found["subset_accuracy"][at] == pytest.approx(sk.accuracy_score(g, said), abs=1e-6)
        assert found["average_precision"][at] == pytest.approx(sk.average_precision_score(g, s), abs=1e-6)


def test_multi_by_hand() -> None:
    gold = np.array([[1, 0], [1, 1], [0, 0]], bool)
    found = multi.measure(("a", "b"), gold, np.array([[0.9, 0.6], [0.8, 0.7], [0.1, 0.2]]))
    assert found.metrics["f1_micro"] == pytest.approx(2 * 3 / (3 + 4))
    assert found.metrics["subset_accuracy"] == pytest.approx(2 / 3)
    assert found.classes["b"]["precision"] == 0.5


def test_resampled_regression_figures_are_those_of_sklearn_and_scipy() -> None:
    chance = np.random.default_rng(2)
    gold = chance.integers(0, 6, 40).astype(float)
    said = (gold + chance.normal(0, 1, 40)).round(1)
    counts = counts_of(40, 2)
    found = regression.of_counts(gold, said)(counts)
    for at, drawn in enumerate(counts):
        g, s = repeated(drawn, gold, said)
        expected = {
            "mae": sk.mean_absolute_error(g, s),
            "rmse": sk.root_mean_squared_error(g, s),
            "r2": sk.r2_score(g, s),
            "pearson": stats.pearsonr(g, s).statistic,
            "spearman": stats.spearmanr(g, s).statistic,
        }
        for name, value in expected.items():
            assert found[name][at] == pytest.approx(value, abs=1e-4), name


def test_a_regression_of_one_number_has_no_correlation() -> None:
    found = regression.measure(np.ones(5), np.arange(5.0))
    assert found.metrics.keys() == {"mae", "rmse"}
    assert found.intervals.keys() == {"mae", "rmse"}


GOLD = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC", "O"], ["B-ORG", "O"]]
SAID = [["B-PER", "I-PER", "O", "B-ORG"], ["O", "I-LOC", "O"], ["O", "O"]]


def test_tags_by_hand_and_by_seqeval() -> None:
    found = tags.measure(GOLD, SAID)
    # gold: PER, LOC, LOC, ORG. Said: PER, ORG, LOC (an I- after O begins an entity by conlleval's rules). Right: 2.
    assert found.metrics["precision"] == pytest.approx(2 / 3)
    assert found.metrics["recall"] == pytest.approx(2 / 4)
    assert found.metrics["f1"] == pytest.approx(4 / 7)
    assert found.metrics["token_accuracy"] == pytest.approx(6 / 9)
    report = seq.classification_report(GOLD, SAID, output_dict=True, zero_division=0)
    assert found.classes["LOC"]["f1"] == pytest.approx(report["LOC"]["f1-score"])
    assert set(found.classes) == {"PER", "LOC", "ORG"}


def test_resampled_tag_figures_are_those_of_seqeval() -> None:
    counts = np.array([[2, 1, 0], [1, 1, 1], [0, 2, 1]], np.float32)
    found = tags.of_counts(GOLD, SAID)(counts)
    for at, drawn in enumerate(counts):
        gold = [row for row, times in zip(GOLD, drawn, strict=True) for _ in range(int(times))]
        said = [row for row, times in zip(SAID, drawn, strict=True) for _ in range(int(times))]
        assert found["f1"][at] == pytest.approx(seq.f1_score(gold, said))
        assert found["precision"][at] == pytest.approx(seq.precision_score(gold, said))
        assert found["token_accuracy"][at] == pytest.approx(seq.accuracy_score(gold, said))


def test_tags_without_marks_are_types() -> None:
    gold, said = [["ORG", "ORG", "O", "NOUN"]], [["ORG", "ORG", "NOUN", "NOUN"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tags.measure(gold, said)
    assert found.metrics == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "f1_macro": 1 / 2, "token_accuracy": 3 / 4}
    )
    assert {name: line["support"] for name, line in found.classes.items()} == {"ORG": 1, "NOUN": 1}
    assert tags.confusion(gold, said) == {("ORG", "ORG"): 2, ("O", "NOUN"): 1, ("NOUN", "NOUN"): 1}


def test_tags_of_bilou_are_parted_by_their_marks() -> None:
    found = tags.measure([["U-PER", "U-PER", "B-PER", "L-PER"]], [["U-PER", "U-PER", "U-PER", "U-PER"]])
    assert found.metrics["precision"] == 2 / 4
    assert found.metrics["recall"] == pytest.approx(2 / 3)
    assert found.metrics["token_accuracy"] == 2 / 4


def test_tags_without_any_entity() -> None:
    found = tags.measure([["O", "O"]], [["O", "O"]])
    assert found.metrics["f1"] == 0.0
    assert found.metrics["token_accuracy"] == 1.0
    assert found.classes == {}


def test_rank_statistics_know_what_a_resample_cannot_have() -> None:
    counts = np.array([[2, 0], [1, 1]], np.float32)
    positive, scores = np.array([True, False]), np.array([0.9, 0.1])
    assert np.isnan(weighted.roc_auc(counts, positive, scores)[0])
    assert weighted.roc_auc(counts, positive, scores)[1] == 1.0


def test_intervals_cover_as_often_as_they_say_and_are_seeded() -> None:
    chance, covered, truth = np.random.default_rng(0), 0, 0.8

    def ranges_of(right: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
        return bootstrap.intervals(150, lambda counts: {"a": bootstrap.mean(counts, right)}, seed)

    for number in range(200):
        ranges = ranges_of(chance.random(150) < truth, number)
        covered += ranges["a"][0] <= truth <= ranges["a"][1]
    assert 0.90 <= covered / 200 <= 0.99
    again = [
        bootstrap.intervals(9, lambda counts: {"a": bootstrap.mean(counts, np.arange(9))}, 7)
        for _ in range(2)
    ]
    assert again[0] == again[1]


def outcome(
    problem: Problem,
    names: tuple[str, ...],
    labels: list[Any],
    logits: list[Any],
    inputs: list[Any] | None = None,
) -> Outcome:
    inputs = inputs or [f"text {at}" for at in range(len(labels))]
    rows = [
        LabelledRow(given, label, f"f.csv, line {at}")
        for at, (given, label) in enumerate(zip(inputs, labels, strict=True))
    ]
    return Outcome.of_logits(Labels(names, problem), rows, [np.asarray(one, np.float32) for one in logits])


def test_words_that_were_cut_off_count_as_not_found() -> None:
    found = outcome("tags", ("O", "B-X"), [(0, 1, 1)], [[[9, 0], [0, 9]]], [("a", "b", "c")])
    assert found.predicted == [["O", "B-X", "O"]]
    assert found.cut_off == 1
    assert found.measure().metrics["recall"] == 0.5


def test_the_worst_errors_are_the_surest() -> None:
    logits = [[3, 0, 0], [0, 9, 0], [0, 2, 0], [0, 0, 5]]
    assert worst(outcome("single", NAMES, [0, 2, 0, 0], logits)) == [1, 3, 2]
    numbers = outcome("regression", ("grade",), [1.0, 2.0, 3.0], [[1.0], [9.0], [4.0]])
    assert worst(numbers) == [1, 2]
