"""Evaluates a classifier's run on held-out rows: predictions of torch and ONNX, a report, a model card."""

from __future__ import annotations

from typing import Any

from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of
from ptune.data.held_out import Held
from ptune.evaluation.classification.evaluation import figures, outcome_of, write
from ptune.evaluation.classification.onnx_side import served_as
from ptune.evaluation.classification.results import FIGURES, OF_A_LABEL, measured_labels
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.require import refuse_unknown
from ptune.evaluation.training_chart import pages_of
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_text
from ptune.kinds import imported
from ptune.training.journal.card import card


def evaluate_run(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """Evaluates a run on its test files (else its validation split, else `data`); with a bundle, ONNX beside torch.

    Writes evaluation.json, predictions.jsonl, report.html and the model card into the run.
    Raises: FormatError if the run is not finished; DataError if its data is gone or has changed; UsageError
    if a requirement names an unknown figure.
    """
    from ptune.tasks.classification.predictions import predictor

    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    held: Held = imported(task_of(recipe.task).held_out)(run, asked.data, asked.columns)
    problem, known = held.labels.problem, measured_labels(held.labels)
    refuse_unknown(asked.require, FIGURES[problem], OF_A_LABEL[problem], known)
    served = served_as(run, asked.bundle, asked.adapter)
    sides = {"torch": outcome_of("torch", held, predictor(run))}
    if served is not None:
        sides["ONNX"] = outcome_of("ONNX", held, lambda rows, tell: served.logits(rows, tell, asked.threads))
    evaluation = figures(held, sides, asked.require, recipe.train.seed) | chosen_by(run, held.split)
    pages = pages_of(run, record, recipe.name)
    write(run.folder, evaluation, sides, pages)
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    return evaluation
