"""Figures of single-label classification. Point figures come from scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation import binomial
from ptune.evaluation.classification import weighted
from ptune.evaluation.classification.bootstrap import Counts, Statistic, Values, intervals, mean, share, sums
from ptune.evaluation.classification.calibration import BINS, bins_of, reliability
from ptune.evaluation.classification.results import Measured

TOP, TOP_FROM = 5, 6  # top-5 accuracy means little with fewer than 6 labels
_CURVE_POINTS = 200


def measure(names: tuple[str, ...], gold: NDArray[Any], scores: NDArray[Any], seed: int = 0) -> Measured:
    """Measures `scores`, [rows, labels] probabilities, against `gold`, [rows] label indices.

    Macro averages are over the labels that are gold or predicted, as in scikit-learn.
    """
    from sklearn import metrics as sk

    predicted, every = scores.argmax(axis=1), np.arange(len(names))
    figures = {"accuracy": sk.accuracy_score(gold, predicted)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about labels that are predicted and never gold
        figures["balanced_accuracy"] = sk.balanced_accuracy_score(gold, predicted)
    for kind in ("macro", "weighted"):
        values = sk.precision_recall_fscore_support(gold, predicted, average=kind, zero_division=0)
        figures |= {
            f"{name}_{kind}": value
            for name, value in zip(("precision", "recall", "f1"), values, strict=False)
        }
    figures["log_loss"] = sk.log_loss(gold, _normalised(scores), labels=every)
    if len(names) >= TOP_FROM:
        # scikit-learn's takes the last of equal scores, and a prediction is the first of them
        figures["top5_accuracy"] = _among(gold, scores).mean()
    confidence, right = scores.max(axis=1), predicted == gold
    curve, figures["ece"] = reliability(confidence, right)
    binary, details = len(names) == 2 and len(set(gold.tolist())) == 2, dict[str, Any](reliability=curve)
    if binary:
        figures["roc_auc"] = sk.roc_auc_score(gold, scores[:, 1])
        figures["pr_auc"] = sk.average_precision_score(gold, scores[:, 1])
        details |= _curves(gold, scores[:, 1])
    details["confusion"] = sk.confusion_matrix(gold, predicted, labels=every).tolist()
    per_class = sk.precision_recall_fscore_support(gold, predicted, labels=every, zero_division=0)
    classes = {
        name: dict(zip(("precision", "recall", "f1", "support"), map(float, values), strict=True))
        for name, *values in zip(names, *per_class, strict=True)
    }
    one_hot = np.eye(len(names), dtype=bool)
    details["class_intervals"] = class_intervals(names, one_hot[gold], one_hot[predicted])
    statistic = of_counts(gold, scores, binary=binary)
    shares = {"accuracy": right, "recall_weighted": right, "top5_accuracy": _among(gold, scores)}
    ranges = intervals(len(gold), statistic, seed)
    ranges |= {name: binomial.of_rows(rows) for name, rows in shares.items() if name in figures}
    return Measured({name: float(value) for name, value in figures.items()}, ranges, classes, details)


def of_counts(gold: NDArray[Any], scores: NDArray[Any], *, binary: bool = False) -> Statistic:
    """Returns the statistic that computes the same figures for all resamples at once."""
    predicted, labels = scores.argmax(axis=1), scores.shape[1]
    right, confidence = predicted == gold, scores.max(axis=1)
    losses = -np.log(np.clip(_normalised(scores)[np.arange(len(gold)), gold], np.finfo(np.float64).eps, 1.0))
    among = _among(gold, scores)
    in_bin = np.eye(BINS, dtype=np.float32)[bins_of(confidence)] * (confidence - right)[:, None].astype(
        np.float32
    )

    def statistic(counts: Counts) -> dict[str, Values]:
        figures = {"accuracy": mean(counts, right), "log_loss": mean(counts, losses)}
        figures |= averages(counts, gold, predicted, labels)
        figures["ece"] = np.abs(sums(counts, in_bin)).sum(axis=1) / len(gold)
        if labels >= TOP_FROM:
            figures["top5_accuracy"] = mean(counts, among)
        if binary:
            figures["roc_auc"] = weighted.roc_auc(counts, gold == 1, scores[:, 1])
            figures["pr_auc"] = weighted.average_precision(counts, gold == 1, scores[:, 1])
        return figures

    return statistic


def class_intervals(
    names: tuple[str, ...], gold: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> dict[str, dict[str, list[float]]]:
    """Label -> the exact 95 % intervals of its precision and recall, from [rows, labels]; none of a share of no rows."""
    right = (gold & predicted).sum(axis=0)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for figure, rows in (("precision", predicted.sum(axis=0)), ("recall", gold.sum(axis=0))):
        for name, successes, trials in zip(names, right, rows, strict=True):
            if trials:
                found[name][figure] = list(binomial.interval(int(successes), int(trials)))
    return found


def averages(
    counts: Counts, gold_labels: NDArray[Any], predicted_labels: NDArray[Any], labels: int
) -> dict[str, Values]:
    """Macro and weighted averages of resampled rows, from [rows] label indices."""
    one_hot = np.eye(labels, dtype=np.float32)
    gold, predicted = sums(counts, one_hot[gold_labels]), sums(counts, one_hot[predicted_labels])
    right = sums(counts, one_hot[gold_labels] * (gold_labels == predicted_labels)[:, None])
    precision, recall, f1 = share(right, predicted), share(right, gold), share(2 * right, gold + predicted)
    present, seen = gold > 0, (gold > 0) | (predicted > 0)
    figures = {"balanced_accuracy": share((recall * present).sum(axis=1), present.sum(axis=1).astype(float))}
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        figures[f"{name}_macro"] = share((values * seen).sum(axis=1), seen.sum(axis=1).astype(float))
        figures[f"{name}_weighted"] = share((values * gold).sum(axis=1), gold.sum(axis=1))
    return figures


def _among(gold: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.bool_]:
    """[rows]: whether the right label is one of the likeliest five."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    return np.asarray((best == gold[:, None]).any(axis=1))


def _normalised(scores: NDArray[Any]) -> Values:
    """Rescales float32 probabilities to sums of exactly 1, as scikit-learn requires."""
    values = scores.astype(np.float64)
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def _curves(gold: NDArray[Any], positive: NDArray[Any]) -> dict[str, Any]:
    """Points of the ROC and precision-recall curves, thinned out."""
    from sklearn import metrics as sk

    wrong, right, _ = sk.roc_curve(gold, positive)
    precision, recall, _ = sk.precision_recall_curve(gold, positive)
    return {"roc": _thinned(wrong, right), "pr": _thinned(recall[::-1], precision[::-1])}


def _thinned(xs: NDArray[Any], ys: NDArray[Any]) -> list[list[float]]:
    kept = np.unique(np.linspace(0, len(xs) - 1, min(len(xs), _CURVE_POINTS)).astype(int))
    return [[round(float(xs[at]), 5), round(float(ys[at]), 5)] for at in kept]
