"""Evaluates a classifier's run on held-out rows: predictions of torch and ONNX, a report, a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.config.columns import USUAL
from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of
from ptune.data.held_out import Held
from ptune.evaluation.classification.evaluation import Pages, figures, outcome_of, write
from ptune.evaluation.classification.onnx_side import served_as
from ptune.evaluation.classification.results import FIGURES, OF_A_LABEL
from ptune.evaluation.report import origin
from ptune.evaluation.require import Requirement, refuse_unknown
from ptune.evaluation.training_chart import in_a_line, training
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_text
from ptune.kinds import imported
from ptune.training.card import card


def evaluate_run(
    run: Run,
    *,
    data: Sequence[Path] = (),
    columns: Mapping[str, str] = USUAL,
    bundle: Path | None = None,
    adapter: str | None = None,
    require: Sequence[Requirement] = (),
    threads: int | None = None,
) -> dict[str, Any]:
    """Evaluates a run on its test files (else its validation split, else `data`); with a bundle, ONNX beside torch.

    Writes evaluation.json, predictions.jsonl, report.html and the model card into the run.
    Raises: FormatError if the run is not finished; DataError if its data is gone or has changed; UsageError
    if a requirement names an unknown figure.
    """
    from ptune.tasks.classification.predictions import predictor

    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    held: Held = imported(task_of(recipe.task).held_out)(run, data, columns)
    refuse_unknown(require, FIGURES[held.labels.problem], OF_A_LABEL)
    served = served_as(run, bundle, adapter)
    sides = {"torch": outcome_of("torch", held, predictor(run))}
    if served is not None:
        sides["ONNX"] = outcome_of("ONNX", held, lambda rows, tell: served.logits(rows, tell, threads))
    evaluation = figures(held, sides, require, recipe.train.seed)
    about = in_a_line(record)
    pages = Pages(recipe.name, about, training(run), origin(record, "rows"))
    write(run.folder, evaluation, sides, pages)
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    return evaluation
