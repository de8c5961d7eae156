"""The doctor of a chat recipe's data."""

from __future__ import annotations

from ptune.config.recipe import Recipe
from ptune.doctor import seen
from ptune.doctor.examination import examine as examine_conversations
from ptune.doctor.examined import Examined
from ptune.doctor.kept_codec import chat_codec
from ptune.doctor.show import document, show
from ptune.tasks.chat.recipe_codec import codec_for


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: DataError, RecipeError, BackboneError."""
    codec = codec_for(recipe.chat, chat_codec(recipe.backbone))
    report = examine_conversations(recipe.data, recipe.chat, codec, recipe.train.seed)
    return Examined(
        lambda: document(report),
        lambda console: show(report, console),
        report.has_errors,
        lambda count: seen.of_chat(report.doctor.splits["train"], codec, count),
    )
