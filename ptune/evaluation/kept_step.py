"""Whether the rows of an evaluation are those by which training chose the step that it kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptune.formats.run import Run


def chosen_by(run: Run, split: str) -> dict[str, int]:
    """For evaluation.json: the kept step as `chose_step`, if it was chosen among several by rows of this split; else nothing."""
    validated = [entry for entry in run.metrics() if "validation_loss" in entry]
    kept = run.record().best_step
    return {"chose_step": kept} if split == "validation" and kept is not None and len(validated) > 1 else {}


def told(evaluation: Mapping[str, Any]) -> str:
    """A sentence for a reader of the figures; empty where other rows chose, or none."""
    if "chose_step" not in evaluation:
        return ""
    return (
        f"These rows also chose the step that was kept, step {evaluation['chose_step']}: figures on rows that chose nothing"
        " may be a little worse. data.test names such rows."
    )
