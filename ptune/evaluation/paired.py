"""Paired tests: is one run better than another on the same rows, or was it luck?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation.classification import single, tags
from ptune.evaluation.classification.bootstrap import (
    Counts,
    Interval,
    Statistic,
    Values,
    mean,
    resampled,
    share,
)
from ptune.evaluation.process_reward import measures as steps

METRICS = {
    "single": ("accuracy", "f1_macro"),
    "multi": ("f1_micro",),
    "regression": ("mae",),
    "tags": ("f1",),
    "steps": ("step_accuracy", "first_wrong_f1"),
    "pairs": ("accuracy", "margin"),
    "ranking": ("mrr", "recall@10"),
    "translation": ("chrf",),
}
"""Problem -> the figures whose difference is tested."""


@dataclass(frozen=True)
class Difference:
    """A figure of one run minus another's, on the same rows."""

    metric: str
    value: float
    interval: Interval  # 95 %, paired bootstrap
    p: float  # probability of so large a difference by chance
    test: str


def differences(
    problem: str,
    labels: Sequence[str],
    one: Sequence[Mapping[str, Any]],
    other: Sequence[Mapping[str, Any]],
    seed: int = 0,
) -> list[Difference]:
    """Tests `one` minus `other`: lines of predictions.jsonl for the same rows in the same order.

    Accuracies are tested by McNemar's test (exact binomial), other figures by the paired bootstrap. A figure that these rows
    do not have, as that of the first wrong step where no step is wrong, is left out.
    """
    ours, theirs = (_statistic(problem, labels, side) for side in (one, other))
    whole = np.ones((1, len(one)), np.float32)
    apart = resampled(len(one), lambda counts: _minus(ours(counts), theirs(counts)), seed)
    tested = []
    for metric in METRICS[problem]:
        value = float(_minus(ours(whole), theirs(whole))[metric][0])
        if not np.isfinite(value):
            continue
        known = apart[metric][np.isfinite(apart[metric])]
        low, high = np.percentile(known, [2.5, 97.5])
        if metric == "accuracy":
            p, test = mcnemar(_right(problem, one), _right(problem, other)), "McNemar, exact"
        else:
            p, test = _two_sided(known, _differing(problem, metric, one, other)), "paired bootstrap"
        tested.append(Difference(metric, value, (float(low), float(high)), p, test))
    return tested


def mcnemar(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Exact p of McNemar's test: if both are equally good, rows that only one gets right split evenly."""
    from scipy.stats import binomtest

    ours, theirs = int((one & ~other).sum()), int((~one & other).sum())
    return float(binomtest(ours, ours + theirs, 0.5).pvalue) if ours + theirs else 1.0


def _minus(ours: dict[str, Values], theirs: dict[str, Values]) -> dict[str, Values]:
    return {name: ours[name] - theirs[name] for name in ours}


def _two_sided(apart: Values, differing: int) -> float:
    """p: twice the share of resamples on the wrong side of 0, counting at least one.

    Of few rows that differ all resamples may be on one side. By luck each of them favours either run, so that all favour the
    same one in 2 of 2^differing cases: no p is below that.
    """
    least = max(1 / len(apart), 0.5**differing)
    return float(min(1.0, 2 * max(least, min((apart <= 0).mean(), (apart >= 0).mean()))))


def _differing(
    problem: str, metric: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> int:
    """Number of rows on which the two runs differ."""

    def said(line: Mapping[str, Any]) -> Any:
        if problem == "ranking":
            return line["figures"][metric]
        return line["rewards"] if problem == "pairs" else line["predicted"]

    return sum(said(a) != said(b) for a, b in zip(one, other, strict=True))


def _right(problem: str, side: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    if problem == "pairs":
        return _margins(side) > 0
    return np.array([line["gold"] == line["predicted"] for line in side])


def _margins(side: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """By how much the better answer of each pair has the higher reward."""
    return np.array([line["rewards"][0] - line["rewards"][1] for line in side], np.float64)


def _statistic(problem: str, labels: Sequence[str], side: Sequence[Mapping[str, Any]]) -> Statistic:
    """Counts -> the figures of METRICS."""
    if problem == "ranking":
        figures = {name: np.array([line["figures"][name] for line in side]) for name in METRICS[problem]}
        return lambda counts: {name: mean(counts, values) for name, values in figures.items()}
    if problem == "pairs":
        by = _margins(side)
        return lambda counts: {"accuracy": mean(counts, by > 0), "margin": mean(counts, by)}
    gold, predicted = [line["gold"] for line in side], [line["predicted"] for line in side]
    if problem == "translation":
        from ptune.evaluation.translation.scores import statistic as of_texts

        return of_texts(predicted, gold)
    if problem == "tags":
        return tags.of_counts(gold, predicted)
    if problem == "steps":
        return steps.of_counts(gold, predicted)
    if problem == "regression":
        error = np.abs(np.array(gold, float) - np.array(predicted, float))
        return lambda counts: {"mae": mean(counts, error)}
    if problem == "multi":
        right = np.array([len(set(a) & set(b)) for a, b in zip(gold, predicted, strict=True)])
        either = np.array([len(a) + len(b) for a, b in zip(gold, predicted, strict=True)])
        return lambda counts: {"f1_micro": share(2 * mean(counts, right), mean(counts, either))}
    place = {name: at for at, name in enumerate(labels)}
    a, b = (np.array([place[name] for name in names]) for names in (gold, predicted))

    def statistic(counts: Counts) -> dict[str, Values]:
        return {
            "accuracy": mean(counts, a == b),
            "f1_macro": single.averages(counts, a, b, len(labels))["f1_macro"],
        }

    return statistic
