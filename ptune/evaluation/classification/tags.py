"""Figures of tagged words: whole entities count, by seqeval's rules (those of conlleval), and single tags beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ptune.evaluation.classification.bootstrap import Counts, Statistic, Values, intervals, share, sums
from ptune.evaluation.classification.results import Measured

Tags = Sequence[Sequence[str]]


def measure(gold: Tags, predicted: Tags, seed: int = 0) -> Measured:
    """`gold` and `predicted`: the tags of each row's words, equally many. Micro averages, and one line a type."""
    from seqeval import metrics as seq

    gold, predicted = [list(row) for row in gold], [list(row) for row in predicted]
    found = {
        "precision": seq.precision_score(gold, predicted, zero_division=0),
        "recall": seq.recall_score(gold, predicted, zero_division=0),
        "f1": seq.f1_score(gold, predicted, zero_division=0),
        "f1_macro": seq.f1_score(gold, predicted, average="macro", zero_division=0) if _any(gold) else 0.0,
        "token_accuracy": seq.accuracy_score(gold, predicted),
    }
    per_type = (
        seq.classification_report(gold, predicted, output_dict=True, zero_division=0)
        if _any(gold) or _any(predicted)
        else {}
    )
    classes = {
        name: {
            "precision": float(line["precision"]),
            "recall": float(line["recall"]),
            "f1": float(line["f1-score"]),
            "support": float(line["support"]),
        }
        for name, line in per_type.items()
        if name not in ("micro avg", "macro avg", "weighted avg")
    }
    ranges = intervals(len(gold), of_counts(gold, predicted), seed)
    return Measured({name: float(value) for name, value in found.items()}, ranges, classes)


def of_counts(gold: Tags, predicted: Tags) -> Statistic:
    """Precision, recall, F1 (micro) and token accuracy of resampled rows, all at once."""
    rows = np.array([_counted(list(one), list(other)) for one, other in zip(gold, predicted, strict=True)])

    def statistic(counts: Counts) -> dict[str, Values]:
        right, is_gold, is_said, tokens, words = sums(counts, rows).T
        return {
            "precision": share(right, is_said),
            "recall": share(right, is_gold),
            "f1": share(2 * right, is_gold + is_said),
            "token_accuracy": share(tokens, words),
        }

    return statistic


def _counted(gold: list[str], predicted: list[str]) -> tuple[int, int, int, int, int]:
    """Of one row: entities found, entities gold, entities predicted, tags right, words."""
    wanted, said = entities(gold), entities(predicted)
    tokens = sum(one == other for one, other in zip(gold, predicted, strict=True))
    return len(wanted & said), len(wanted), len(said), tokens, len(gold)


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """(type, first word, last word) of each entity, as seqeval reads them."""
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities(tags))


def confusion(gold: Tags, predicted: Tags) -> dict[tuple[str, str], int]:
    """How often words of one type ("O" for none) were tagged as another: (gold, predicted) -> words."""
    found = Counter[tuple[str, str]]()
    for one, other in zip(gold, predicted, strict=True):
        found.update((_type(a), _type(b)) for a, b in zip(one, other, strict=True))
    return dict(found)


def _type(tag: str) -> str:
    return tag[2:] if tag[:2] in ("B-", "I-") else tag


def _any(tags: Tags) -> bool:
    return any(entities(list(row)) for row in tags)
