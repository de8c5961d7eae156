"""Which recipes the engine can follow: those whose model answers as it is trained."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.utils import DistributedType

from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.methods.lora_from_data import FROM_DATA
from ptune.methods.peft_method import PeftMethod


def check_followed(recipe: Recipe, accelerator: Accelerator, what: str) -> None:
    """what: the task, as a sentence calls it. Raises: RecipeError for what an engine cannot follow."""
    method, train = recipe.method, recipe.train
    if getattr(method, "init", "default") in FROM_DATA:
        raise RecipeError(
            f"method.init {getattr(method, 'init', '')!r} begins from answers, and there are none yet: leave it out"
        )
    if not isinstance(method, PeftMethod) or method.one_text:
        raise RecipeError(
            f"method {type(method).__name__}: {what} trains an adapter that the engine follows: use method Lora"
        )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise RecipeError(
            f"{what} cannot be trained on sharded weights: use one process, or accelerate's ddp.yaml"
        )
    dropped = {"method.dropout": getattr(method, "dropout", 0.0), "train.dropout": train.dropout}
    for name, share in dropped.items():
        if share:
            raise RecipeError(
                f"{name} {share:g}: with dropout the model that is trained is not the one that answered: set it to 0"
            )
    if train.neftune_alpha is not None or train.ema is not None:
        name = "neftune_alpha" if train.ema is None else "ema"
        raise RecipeError(
            f"train.{name}: the model that is trained would not be the one that answered: leave it out"
        )
    if train.order != "shuffled":
        raise RecipeError(
            f"train.order {train.order}: how long an example of {what} is, is not known before its answers"
        )
    if recipe.backbone.new_tokens or recipe.backbone.stream:
        name = "new_tokens" if recipe.backbone.new_tokens else "stream"
        raise RecipeError(f"backbone.{name} is not for {what}: leave it out")
