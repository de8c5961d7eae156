"""The doctor of a reinforcement recipe's prompts."""

from __future__ import annotations

from ptune.config.recipe import Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.data.shapes.prompts import read_prompts
from ptune.doctor.examined import Examined
from ptune.doctor.kept_codec import chat_codec
from ptune.doctor.prompts import PromptExamination, examined
from ptune.doctor.refused import file_refused
from ptune.errors import DataError
from ptune.tasks.chat.recipe_codec import codec_for


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: RecipeError, BackboneError; DataError if the recipe names no files."""
    task = recipe.task
    assert isinstance(task, Reinforcement)
    codec = codec_for(task, chat_codec(recipe.backbone))
    files = (*recipe.data.files, *recipe.data.validation, *recipe.data.test)
    try:
        found = examined(read_prompts(recipe.data, task, codec, recipe.train.seed), files)
    except DataError as error:
        if not files:
            raise
        found = PromptExamination(None, [file_refused(error)])
    return Examined(found.described, found.show, found.has_errors)
