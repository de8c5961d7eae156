"""The doctor of pairs that belong together, of embeddings and of rerankers."""

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
    found = examine_pairs(recipe.data, task, load_sequence_codec(recipe.backbone), recipe.train.seed)
    return Examined(lambda: document(found), lambda console: show(found, console), found.has_errors)
