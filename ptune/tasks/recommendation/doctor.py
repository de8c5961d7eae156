"""The doctor of who had what, and of the catalogue."""

from __future__ import annotations

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.recipe import Recipe
from ptune.doctor.examined import Examined
from ptune.doctor.interactions import examine_interactions
from ptune.doctor.show_pairs import document, show


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: DataError, RecipeError, BackboneError."""
    found = examine_interactions(recipe, load_sequence_codec(recipe.backbone))
    return Examined(lambda: document(found), lambda console: show(found, console), found.has_errors)
