"""How good an order of passages is, query by query: trec_eval's own figures (through pytrec_eval), with intervals."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.evaluation.classification.bootstrap import Counts, intervals, mean
from ptune.evaluation.classification.results import Measured

FIGURES = ("recall@10", "mrr", "ndcg@10", "recall@1", "recall@5", "recall@100")
DEPTH = 100  # passages of a query that are looked at; one that comes later counts as not found
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

    scores: [queries, passages], -inf where a passage is no candidate; relevant: of each query the right passages.
    """
    import pytrec_eval

    width = len(str(scores.shape[1]))  # trec_eval breaks ties by name, the last first
    names = [f"{scores.shape[1] - at:0{width}}" for at in range(scores.shape[1])]
    right = {str(q): {names[at]: 1 for at in found} for q, found in enumerate(relevant)}
    ranked = {str(q): {names[at]: float(row[at]) for at in best(row)} for q, row in enumerate(scores)}
    asked = {"recall.1,5,10,100", "recip_rank", "ndcg_cut.10"}
    said = pytrec_eval.RelevanceEvaluator(right, asked).evaluate(ranked)
    return {
        name: np.array([said.get(str(q), {}).get(known, 0.0) for q in range(len(relevant))])
        for name, known in _NAMES.items()
    }


def best(row: NDArray[Any], most: int = DEPTH) -> list[int]:
    """The first passages of a query, the best first."""
    order = np.argsort(-row, kind="stable")[:most]
    return [int(at) for at in order if np.isfinite(row[at])]


def measure(scores: Scores, relevant: Sequence[Set[int]], seed: int = 0) -> Measured:
    """The means over queries, with 95 % intervals (bootstrap over queries)."""
    found = per_query(scores, relevant)

    def means(counts: Counts) -> dict[str, NDArray[np.float64]]:
        return {name: mean(counts, values) for name, values in found.items()}

    return Measured(
        {name: float(values.mean()) for name, values in found.items()},
        intervals(len(relevant), means, seed),
    )
