"""Figures of tagged words: whole entities by the rules of seqeval (conlleval), and single tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ptune.codecs.tag_marks import OUTSIDE, entities_of, read_tag
from ptune.evaluation.classification.bootstrap import Counts, Statistic, Values, intervals, share, sums
from ptune.evaluation.classification.results import Measured

Tags = Sequence[Sequence[str]]


def measure(gold: Tags, predicted: Tags, seed: int = 0) -> Measured:
    """Measures each row's predicted tags against as many gold ones: micro averages, and one line per type."""
    from seqeval import metrics as seq

    ranges = intervals(len(gold), of_counts(gold, predicted), seed)
    accuracy = seq.accuracy_score([list(row) for row in gold], [list(row) for row in predicted])
    gold, predicted = marked(gold), marked(predicted)
    figures = {
        "precision": seq.precision_score(gold, predicted, zero_division=0),
        "recall": seq.recall_score(gold, predicted, zero_division=0),
        "f1": seq.f1_score(gold, predicted, zero_division=0),
        "f1_macro": seq.f1_score(gold, predicted, average="macro", zero_division=0) if _any(gold) else 0.0,
        "token_accuracy": accuracy,
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
    return Measured({name: float(value) for name, value in figures.items()}, ranges, classes)


def of_counts(gold: Tags, predicted: Tags) -> Statistic:
    """Returns the statistic of micro precision, recall, F1 and token accuracy, for all resamples at once."""
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
    """Counts of one row: entities found, gold and predicted; right tags; words."""
    gold_entities, predicted_entities = entities(gold), entities(predicted)
    tokens = sum(one == other for one, other in zip(gold, predicted, strict=True))
    return (
        len(gold_entities & predicted_entities),
        len(gold_entities),
        len(predicted_entities),
        tokens,
        len(gold),
    )


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """(type, first word, last word) of each entity, as they are served."""
    return set(entities_of(tags))


def marked(rows: Tags) -> list[list[str]]:
    """Tags with the marks that seqeval knows: of others it takes the first letter for one, and so ORG for outside."""
    return [
        [tag.mark if tag.mark == OUTSIDE else "-".join(tag) for tag in map(read_tag, row)] for row in rows
    ]


def confusion(gold: Tags, predicted: Tags) -> dict[tuple[str, str], int]:
    """Counts words by type ("O" for none): (gold, predicted) -> words."""
    words = Counter[tuple[str, str]]()
    for one, other in zip(gold, predicted, strict=True):
        words.update((type_of(a), type_of(b)) for a, b in zip(one, other, strict=True))
    return dict(words)


def type_of(tag: str) -> str:
    """A tag's type, without its mark; "O" for none."""
    return read_tag(tag).type or OUTSIDE


def _any(tags: Tags) -> bool:
    return any(entities(list(row)) for row in tags)
