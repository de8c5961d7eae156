"""The doctor for pairs, for embedders and rerankers."""

from __future__ import annotations

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.recipe import Recipe
from ptune.config.retrieval import Embedding, Reranking
from ptune.doctor.examined import Examined
from ptune.doctor.pairs import examine_pairs
from ptune.doctor.show_pairs import document, show


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: DataError, RecipeError, BackboneError."""
    assert isinstance(recipe.task, Embedding | Reranking)
    report = examine_pairs(recipe.data, recipe.task, load_sequence_codec(recipe.backbone), recipe.train.seed)
    return Examined(lambda: document(report), lambda console: show(report, console), report.has_errors)
