"""The doctor for interactions and the catalogue."""

from __future__ import annotations

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.recipe import Recipe
from ptune.doctor.examined import Examined
from ptune.doctor.interactions import examine_interactions
from ptune.doctor.show_pairs import document, show


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: DataError, RecipeError, BackboneError."""
    report = examine_interactions(recipe, load_sequence_codec(recipe.backbone))
    return Examined(lambda: document(report), lambda console: show(report, console), report.has_errors)
