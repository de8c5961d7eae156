"""The doctor for pairs, for embedders and rerankers."""

from __future__ import annotations

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.recipe import Recipe
from ptune.config.retrieval import Embedding
from ptune.doctor.examined import Examined
from ptune.doctor.pairs import examine_pairs
from ptune.doctor.show_pairs import document, show


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: DataError, RecipeError, BackboneError."""
    task = recipe.task if isinstance(recipe.task, Embedding) else None
    report = examine_pairs(recipe.data, task, load_sequence_codec(recipe.backbone), recipe.train.seed)
    return Examined(lambda: document(report), lambda console: show(report, console), report.has_errors)
