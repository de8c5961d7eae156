"""The contents of evaluation.json, of every task whose figures have names and baselines. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptune.evaluation.classification.results import HEADLINE, Measured
from ptune.evaluation.no_better import judged

FORMAT = 1


@dataclass(frozen=True)
class Basis:
    """What figures are of."""

    task: str
    problem: str  # a key of `HEADLINE`
    split: str
    examples: int
    files: list[dict[str, Any]]  # path and SHA-256
    rows_sha256: str  # equal where figures can be compared row by row
    labels: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


def contents(
    basis: Basis,
    sides: Mapping[str, Measured],
    baselines: Mapping[str, Any],
    requirements: Sequence[Any],
    agreement: Mapping[str, Any] | None = None,
    **beside: Any,
) -> dict[str, Any]:
    """The figures of a model, which are those of the first side.

    agreement: of two sides. beside: what a task says more, or instead of what is usual.
    """
    own = next(iter(sides.values()))
    return judged(
        {
            "format": FORMAT,
            "task": basis.task,
            "problem": basis.problem,
            "split": basis.split,
            "examples": basis.examples,
            "labels": list(basis.labels),
            "counts": dict(basis.counts),
            "files": basis.files,
            "rows_sha256": basis.rows_sha256,
            "headline": [name for name in HEADLINE[basis.problem] if name in own.metrics],
            **own.figures(),
            "classes": own.classes,
            "details": own.details,
            "sides": {name: side.figures() for name, side in sides.items()},
            **({} if agreement is None else {"agreement": agreement}),
            "baselines": baselines,
            "slices": [],
            "requirements": requirements,
            **beside,
        }
    )
