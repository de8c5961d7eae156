"""What can be trained of a model that sees images: its decoder, by LoRA. What turns images into features stays as it is."""

from __future__ import annotations

from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.methods.lora import Lora


def check_recipe(recipe: Recipe, codec: ChatCodec) -> None:
    """Raises: RecipeError for what cannot be trained on a model that sees images."""
    if codec.vision is None:
        return
    model, method = recipe.backbone.model, recipe.method
    if type(recipe.task) is not Chat:
        raise RecipeError(
            f"task {type(recipe.task).__name__} is for models that read text alone, and {model} sees images: use Chat"
        )
    if not isinstance(method, Lora) or "embedding" in method.ends or method.target_parameters:
        raise RecipeError(
            f"method: of {model}, which sees images, the decoder's layers are trained by Lora, without target_parameters and"
            " without the embedding among its ends"
        )
