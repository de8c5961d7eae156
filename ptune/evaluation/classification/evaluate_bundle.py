"""Evaluates an adapter of a bundle on given rows, without torch; one that judges steps as process rewards are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptune.evaluation.classification.evaluation import Pages, figures, outcome_of, write
from ptune.evaluation.classification.held_out import of_bundle
from ptune.evaluation.classification.onnx_side import Served, the_adapter
from ptune.evaluation.classification.results import FIGURES, OF_A_LABEL, measured_labels
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.process_reward import evaluate as process_reward
from ptune.evaluation.require import refuse_unknown
from ptune.formats.bundle import Bundle


def evaluate_bundle(folder: Path, out: Path, asked: EvaluationOptions) -> dict[str, Any]:
    """Evaluates one adapter of a bundle on `data`; writes evaluation.json, predictions.jsonl and report.html into `out`.

    Raises: UsageError if the adapter has to be named; DataError if the data cannot be used.
    """
    bundle = Bundle.open(folder)
    record = the_adapter(bundle, asked.adapter)
    if record.step_separator is not None:
        return process_reward.evaluate_bundle(folder, out, asked)
    held = of_bundle(record, asked.data, asked.columns)
    problem, known = held.labels.problem, measured_labels(held.labels)
    refuse_unknown(asked.require, FIGURES[problem], OF_A_LABEL[problem], known)
    served = Served(folder, record.name)
    sides = {"ONNX": outcome_of("ONNX", held, lambda rows, tell: served.logits(rows, tell, asked.threads))}
    evaluation = figures(held, sides, asked.require, 0)
    write(out, evaluation, sides, Pages.of_adapter(bundle, record.name))
    return evaluation
