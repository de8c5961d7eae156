"""Evaluation results as data: figures, intervals, and the inputs of tables and charts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ptune.codecs.labels import Labels
from ptune.codecs.tag_marks import read_tag
from ptune.evaluation.classification.bootstrap import Interval


@dataclass(frozen=True)
class Measured:
    """The figures of one side: torch, ONNX or a baseline."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]  # of the headline figures
    classes: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # label -> precision, recall, f1, support
    details: dict[str, Any] = field(default_factory=dict)  # confusion, reliability, roc, pr: those that exist

    def figures(self) -> dict[str, Any]:
        """The figures for evaluation.json."""
        return {
            "metrics": self.metrics,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
        }


HEADLINE = {
    "single": ("accuracy", "f1_macro", "balanced_accuracy", "log_loss", "ece"),
    "multi": ("f1_micro", "f1_macro", "subset_accuracy", "average_precision"),
    "regression": ("mae", "rmse", "r2", "pearson", "spearman"),
    "tags": ("f1", "precision", "recall", "token_accuracy"),
    "ranking": ("recall@10", "mrr", "ndcg@10", "recall@1"),
    "pairs": ("accuracy", "margin", "accuracy_where_longer", "accuracy_where_shorter"),
    "steps": ("step_accuracy", "first_wrong_f1", "first_wrong_found", "right_kept"),
    "translation": ("chrf", "bleu", "chrf_gain"),
}
"""Problem -> the figures shown first; the first of them is what slices are measured by."""

_AVERAGED = tuple(
    f"{name}_{kind}" for kind in ("macro", "weighted") for name in ("precision", "recall", "f1")
)
_BOTH = tuple(f"{name}_{kind}" for kind in ("micro", "macro") for name in ("precision", "recall", "f1"))
FIGURES = {
    "single": (
        *("accuracy", "balanced_accuracy", *_AVERAGED, "log_loss", "ece"),
        *("top5_accuracy", "roc_auc", "pr_auc"),
    ),
    "multi": ("subset_accuracy", *_BOTH, "average_precision"),
    "regression": HEADLINE["regression"],
    "tags": ("precision", "recall", "f1", "f1_macro", "token_accuracy"),
}
"""Problem -> all figures that there may be; the last three of "single" depend on how many labels there are."""
_OF_A_LABEL = ("precision", "recall", "f1", "support")
OF_A_LABEL = {
    "single": _OF_A_LABEL,
    "multi": (*_OF_A_LABEL, "average_precision"),
    "regression": (),
    "tags": _OF_A_LABEL,
}
"""Problem -> the figures of a label."""


def measured_labels(labels: Labels) -> tuple[str, ...]:
    """What has figures of its own: labels; of tags the types of entities."""
    if labels.problem == "regression":
        return ()
    if labels.problem != "tags":
        return labels.names
    return tuple(dict.fromkeys(kind for name in labels.names if (kind := read_tag(name).type)))


LOWER_IS_BETTER = frozenset({"log_loss", "ece", "mae", "rmse", "loss", "perplexity"})
PLAIN_NUMBERS = frozenset(
    {"log_loss", "mae", "rmse", "r2", "pearson", "spearman", "loss", "perplexity", "margin", "reward"}
)
"""Figures that are no shares of anything."""
OF_A_HUNDRED = frozenset({"chrf", "bleu", "chrf_gain"})

TITLES = {
    "ece": "calibration error",
    "f1_macro": "F1, macro",
    "f1_micro": "F1, micro",
    "f1_weighted": "F1, weighted",
    "f1": "F1",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "top5_accuracy": "top-5 accuracy",
    "mrr": "MRR",
    "ndcg@10": "NDCG@10",
    "chrf": "chrF",
    "bleu": "BLEU",
    "accuracy_where_longer": "accuracy where the better answer is longer",
    "accuracy_where_shorter": "accuracy where it is shorter",
    "step_accuracy": "accuracy of steps",
    "first_wrong_f1": "F1 of the next two",
    "first_wrong_found": "first wrong step found",
    "right_kept": "right answers judged right throughout",
    "chrf_gain": "chrF above the best baseline",
}


def title(name: str) -> str:
    """A figure's display name."""
    if name in TITLES:
        return TITLES[name]
    stem, _, kind = name.rpartition("_")
    return f"{stem}, {kind}" if kind in ("micro", "macro", "weighted") else name.replace("_", " ")


def shown(name: str, value: float) -> str:
    """A figure formatted for people: shares in per cent, other numbers with three or four digits."""
    if name in OF_A_HUNDRED:
        return f"{value:.1f}"
    if name in PLAIN_NUMBERS:
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
    return f"{value:.1%}"
