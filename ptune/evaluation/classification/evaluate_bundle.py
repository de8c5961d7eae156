"""An adapter of a bundle, judged by given rows, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptune.evaluation.classification.evaluation import Pages, figures, outcome_of, write
from ptune.evaluation.classification.held_out import of_bundle
from ptune.evaluation.classification.onnx_side import Served, the_adapter
from ptune.evaluation.classification.results import FIGURES, OF_A_LABEL
from ptune.evaluation.require import Requirement, refuse_unknown
from ptune.formats.bundle import Bundle


def evaluate_bundle(
    folder: Path,
    out: Path,
    *,
    data: Sequence[Path],
    adapter: str | None = None,
    require: Sequence[Requirement] = (),
    threads: int | None = None,
) -> dict[str, Any]:
    """Judges one adapter of a bundle by `data`, without torch; writes evaluation.json, predictions.jsonl and report.html
    into `out`.

    Raises: UsageError where it is not said which adapter; DataError where the data cannot be used.
    """
    bundle = Bundle.open(folder)
    record = the_adapter(bundle, adapter)
    held = of_bundle(record, data)
    refuse_unknown(require, FIGURES[held.labels.problem], OF_A_LABEL)
    served = Served(folder, record.name)
    sides = {"ONNX": outcome_of("ONNX", held, lambda rows, tell: served.logits(rows, tell, threads))}
    found = figures(held, sides, require, 0)
    write(out, found, sides, Pages.of_adapter(bundle, record.name))
    return found
