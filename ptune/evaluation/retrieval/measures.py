"""Ranking figures per query, computed by trec_eval (through pytrec_eval), with intervals."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation.classification.bootstrap import intervals_of_means
from ptune.evaluation.classification.results import Measured

FIGURES = ("recall@10", "mrr", "ndcg@10", "recall@1", "recall@5", "recall@100")
DEPTH = 100  # passages examined per query; later ones count as not found
_NAMES = {
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "mrr": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
}

Scores = NDArray[np.float32]


def per_query(scores: Scores, relevant: Sequence[Set[int]]) -> dict[str, NDArray[np.float64]]:
    """Figure -> [queries].

    scores: [queries, passages], -inf for passages that are not candidates; relevant: each query's right passages.
    """
    import pytrec_eval

    width = len(str(scores.shape[1]))  # trec_eval breaks ties by name, in reverse
    names = [f"{scores.shape[1] - at:0{width}}" for at in range(scores.shape[1])]
    right = {str(q): {names[at]: 1 for at in found} for q, found in enumerate(relevant)}
    ranked = {str(q): {names[at]: float(row[at]) for at in best(row)} for q, row in enumerate(scores)}
    measures = {"recall.1,5,10,100", "recip_rank", "ndcg_cut.10"}
    figures = pytrec_eval.RelevanceEvaluator(right, measures).evaluate(ranked)
    return {
        name: np.array([figures.get(str(q), {}).get(known, 0.0) for q in range(len(relevant))])
        for name, known in _NAMES.items()
    }


def best(row: NDArray[Any], most: int = DEPTH) -> list[int]:
    """The top passages of a query, the best first."""
    order = np.argsort(-row, kind="stable")[:most]
    return [int(at) for at in order if np.isfinite(row[at])]


def measure(scores: Scores, relevant: Sequence[Set[int]], seed: int = 0) -> Measured:
    """Means over queries, with 95 % intervals (bootstrap over queries; exact where each query counts as 0 or 1)."""
    figures = per_query(scores, relevant)
    return Measured(
        {name: float(values.mean()) for name, values in figures.items()}, intervals_of_means(figures, seed)
    )
