"""A run of translation: on an encoder-decoder, or on a causal model as chat."""

from __future__ import annotations

from accelerate import Accelerator

from ptune.backbone.seq2seq import is_seq2seq
from ptune.config.recipe import Recipe
from ptune.formats.run import Run
from ptune.training.work import Work


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> Work:
    """The work of the backbone's kind. Raises: DataError, RecipeError, BackboneError."""
    if is_seq2seq(recipe.backbone):
        from ptune.tasks.translation import seq2seq_work

        return seq2seq_work.prepare(recipe, run, accelerator, command)
    from ptune.tasks.chat import work as chat_work

    return chat_work.prepare(recipe, run, accelerator, command)
