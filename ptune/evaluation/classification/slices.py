"""The main figure on parts of the data: by length, by label, by the values of other columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ptune.evaluation import binomial
from ptune.evaluation.classification import bootstrap, multi, tags
from ptune.evaluation.classification.bootstrap import Interval
from ptune.evaluation.classification.outcome import Outcome
from ptune.evaluation.classification.results import HEADLINE

MOST_VALUES = 20  # a column with more is not used for slices
_BUCKETS = 4  # of lengths, with equal numbers of rows


@dataclass(frozen=True)
class Slice:
    """A part of the rows and its main figure."""

    column: str
    value: str
    rows: int
    metric: str
    figure: float
    interval: Interval | None

    def described(self) -> dict[str, Any]:
        """The slice for evaluation.json."""
        return {**asdict(self), "interval": None if self.interval is None else list(self.interval)}


def slices(outcome: Outcome, seed: int = 0) -> list[Slice]:
    """All slices, in column order. A row may be in several label slices, but in one slice of any other column."""
    metric = HEADLINE[outcome.labels.problem][0]
    parts = []
    for column, groups in _groupings(outcome):
        if not 1 < len(groups) <= MOST_VALUES:
            continue
        for value, places in groups.items():
            part = outcome.part(places)
            parts.append(
                Slice(column, value, len(places), metric, _figure(part), _interval(part, metric, seed))
            )
    return parts


def _groupings(outcome: Outcome) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """Column -> value -> rows."""
    if buckets := _by_length(outcome):
        yield buckets
    if outcome.labels.problem in ("single", "multi"):
        by_label = defaultdict[str, list[int]](list)
        for at, gold in enumerate(outcome.gold):
            for name in [gold] if isinstance(gold, str) else gold or ["(none)"]:
                by_label[name].append(at)
        yield (
            "label",
            {name: by_label[name] for name in (*outcome.labels.names, "(none)") if name in by_label},
        )
    columns = list(dict.fromkeys(name for row in outcome.rows for name in row.columns))
    for column in columns:
        by_value = defaultdict[str, list[int]](list)
        for at, row in enumerate(outcome.rows):
            by_value[_short(row.columns.get(column))].append(at)
        yield column, {value: by_value[value] for value in sorted(by_value)}


def _by_length(outcome: Outcome) -> tuple[str, dict[str, list[int]]] | None:
    """Groups rows into quarters from the shortest to the longest; None for images."""
    inputs = [row.input for row in outcome.rows]
    if isinstance(inputs[0], tuple) and outcome.labels.problem == "tags":
        name, lengths = "length in words", np.array([len(words) for words in inputs])
    elif isinstance(inputs[0], str):
        name, lengths = "length in characters", np.array([len(text) for text in inputs])
    elif isinstance(inputs[0], tuple):
        name, lengths = "length in characters, both texts", np.array([sum(map(len, pair)) for pair in inputs])
    else:
        return None
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _BUCKETS + 1), method="lower"))
    if len(edges) < 3:
        return None
    bucket = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, len(edges) - 2)
    groups = {}
    for at in range(len(edges) - 1):
        places = np.flatnonzero(bucket == at)
        groups[f"{lengths[places].min()} to {lengths[places].max()}"] = places.tolist()
    return name, groups


def _figure(part: Outcome) -> float:
    """The main figure, from scikit-learn or seqeval."""
    problem, metric = part.labels.problem, HEADLINE[part.labels.problem][0]
    if problem == "tags":
        from seqeval.metrics import f1_score

        return float(f1_score(tags.marked(part.gold), tags.marked(part.predicted), zero_division=0))
    from sklearn import metrics as sk

    if problem == "single":
        return float(sk.accuracy_score(part.gold, part.predicted))
    if problem == "regression":
        return float(sk.mean_absolute_error(part.gold, part.predicted))
    assert metric == "f1_micro"
    both = multi.indicators(part.present), multi.indicators(multi.predicted(part.table))
    return float(sk.f1_score(*both, average="micro", zero_division=0))


def _interval(part: Outcome, metric: str, seed: int) -> Interval | None:
    """Of accuracy the exact one; of other figures the bootstrap's, where the rows differ."""
    if part.labels.problem == "single":
        right = [one == other for one, other in zip(part.gold, part.predicted, strict=True)]
        return binomial.of_rows(np.array(right))
    return bootstrap.intervals(len(part.rows), _statistic(part), seed).get(metric)


def _statistic(part: Outcome) -> bootstrap.Statistic:
    """The statistic to resample: the main figure alone, since there are many slices."""
    problem = part.labels.problem
    if problem == "regression":
        error = np.abs(np.array(part.gold) - part.table[:, 0])
        return lambda counts: {"mae": bootstrap.mean(counts, error)}
    if problem == "multi":
        predicted, gold = multi.predicted(part.table), part.present
        right, either = (predicted & gold).sum(axis=1), predicted.sum(axis=1) + gold.sum(axis=1)
        return lambda counts: {
            "f1_micro": bootstrap.share(2 * bootstrap.mean(counts, right), bootstrap.mean(counts, either))
        }
    return tags.of_counts(part.gold, part.predicted)


def _short(value: Any) -> str:
    text = "(empty)" if value is None or value == "" else str(value)
    return text if len(text) <= 60 else text[:59] + "…"
