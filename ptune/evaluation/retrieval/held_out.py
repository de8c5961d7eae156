"""Held-out inputs of a retrieval run, for export and proof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptune.config.recipe import Recipe
from ptune.data.held_out import Held
from ptune.data.shapes.interactions import splits_of
from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import DataError
from ptune.evaluation.retrieval.queries import held_rows
from ptune.formats.run import Run
from ptune.formats.task_names import FEATURE_EXTRACTION
from ptune.tasks.encoder.facts import Facts
from ptune.training.folder import check_same_data


def of_run(run: Run, data: Sequence[Path] = ()) -> Held:
    """Anchors and passages in turn; for a reranker, each anchor with its own passage and with the next row's.

    data: unused; given pairs are evaluated as queries (`ptune.evaluation.retrieval.queries`).
    Raises: DataError if a file is gone or has changed, or nothing is held out.
    """
    recipe, facts = Recipe.load(run.recipe_path), Facts.of_run(run)
    splits = splits_of(recipe)
    splits.check()
    check_same_data(run, {"files": [{"split": split, **file.described()} for split, file in splits.files]})
    rows = held_rows(splits, recipe)
    if not rows:
        raise DataError(f"{run.folder} has no held-out row: give its recipe data.test or data.validation")
    inputs: list[tuple[str | tuple[str, str], str]] = []
    for at, row in enumerate(rows):
        if facts.task == FEATURE_EXTRACTION:
            inputs += [(row.anchor, row.place), (row.positive, row.place)]
        else:
            other = rows[(at + 1) % len(rows)].positive
            inputs += [((row.anchor, row.positive), row.place), ((row.anchor, other), row.place)]
    held = [LabelledRow(given, (), place) for given, place in inputs]
    return Held(facts.task, facts.named, "test" if recipe.data.test else "validation", held, [])
