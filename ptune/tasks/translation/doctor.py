"""The doctor for a translation recipe's data: as conversations, or as pairs for an encoder-decoder."""

from __future__ import annotations

from ptune.backbone.seq2seq import is_seq2seq
from ptune.config.recipe import Recipe
from ptune.doctor.examined import Examined
from ptune.doctor.seq2seq import examine_seq2seq
from ptune.doctor.show import document, show
from ptune.tasks.chat import doctor as chat_doctor


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: DataError, RecipeError, BackboneError."""
    if not is_seq2seq(recipe.backbone):
        return chat_doctor.examine(recipe)
    report = examine_seq2seq(recipe)
    return Examined(lambda: document(report), lambda console: show(report, console), report.has_errors)
