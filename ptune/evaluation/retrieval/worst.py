"""The queries whose right passage ranked lowest, as HTML."""

from __future__ import annotations

import numpy as np

from ptune.evaluation.retrieval.measures import Scores, best
from ptune.evaluation.retrieval.queries import Queries
from ptune.evaluation.style import text

SHOWN = 12
_LENGTH = 300  # characters of a text


def gallery(queries: Queries, scores: Scores) -> str:
    """Lists each query with its right passage, its rank, and the passages ranked first."""
    ranks = [place_of(scores[row], right) for row, right in enumerate(queries.relevant)]
    order = sorted(range(len(ranks)), key=lambda row: (-ranks[row], row))
    return "".join(_one(queries, scores, row, ranks[row]) for row in order[:SHOWN] if ranks[row] > 1)


def place_of(row: Scores, right: set[int]) -> int:
    """Rank of the first right passage of a query, counted from 1."""
    highest = max(float(row[at]) for at in right)
    return int(np.sum(row > highest)) + 1


def _one(queries: Queries, scores: Scores, row: int, rank: int) -> str:
    right = max(queries.relevant[row], key=lambda at: float(scores[row, at]))
    first = best(scores[row], 3)
    sides = [
        (f"right, at place {rank} ({scores[row, right]:.3f})", queries.passages[right]),
        *(
            (f"place {place} ({scores[row, at]:.3f})", queries.passages[at])
            for place, at in enumerate(first, 1)
        ),
    ]
    columns = "".join(f"<div><h3>{text(head)}</h3><p>{text(_cut(said))}</p></div>" for head, said in sides)
    return f"<article><p>{text(_cut(queries.queries[row]))}</p><div class=sides>{columns}</div></article>"


def _cut(passage: str) -> str:
    return passage if len(passage) <= _LENGTH else f"{passage[:_LENGTH]}…"
