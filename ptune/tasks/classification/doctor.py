"""The doctor for labelled texts and words."""

from __future__ import annotations

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.recipe import Recipe
from ptune.doctor import seen
from ptune.doctor.classification import examine_labelled
from ptune.doctor.examined import Examined
from ptune.doctor.show_labels import document, show
from ptune.tasks.classification.text import text_task


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: DataError, RecipeError, BackboneError."""
    codec = load_sequence_codec(recipe.backbone)
    report = examine_labelled(recipe.data, text_task(recipe), codec, recipe.train.seed)
    return Examined(
        lambda: document(report),
        lambda console: show(report, console),
        report.has_errors,
        lambda count: seen.of_labels(report.sets, codec, count),
    )
