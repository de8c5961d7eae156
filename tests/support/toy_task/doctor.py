"""The doctor: there must be texts on both sides of the boundary."""

from __future__ import annotations

from collections import Counter

from ptune.config.recipe import Recipe
from ptune.doctor.examined import Examined

from .data import LABELS, read_rows


def examine(recipe: Recipe) -> Examined:
    """Raises: DataError."""
    counts = Counter(LABELS.names[int(row.label)] for row in read_rows(recipe).splits["train"])  # type: ignore[arg-type]
    said = ", ".join(f"{counts[name]} {name}" for name in LABELS.names)
    return Examined(
        lambda: {"labels": dict(counts)},
        lambda console: console.print(f"texts: {said}"),
        has_errors=len(counts) < 2,
    )
