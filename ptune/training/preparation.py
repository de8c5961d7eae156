"""Turns a recipe and a backbone into a trainable model and its optimiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.kind import kind_of_recipe
from ptune.backbone.load import as_stored, training_dtype
from ptune.backbone.streaming import beside_activations
from ptune.backbone.weight_shapes import shapes_alone
from ptune.config.chat import Chat
from ptune.config.optimizers import OPTIMIZERS, given
from ptune.config.recipe import Recipe, Train
from ptune.config.wrong_field import explain
from ptune.errors import RecipeError
from ptune.kinds import DECODER, SEQ2SEQ, imported
from ptune.methods.lora import Lora
from ptune.methods.peft_method import PeftMethod, streams
from ptune.training.average import check_average
from ptune.training.checkpoint import trained
from ptune.training.layers.dropout import set_dropout
from ptune.training.layers.gated_mlp import with_gated_products
from ptune.training.layers.lora_product import with_lora_products
from ptune.training.layers.noise import check_noise, with_noise
from ptune.training.layers.tiles import tile_feed_forwards
from ptune.training.memory.offloading import offload_inputs
from ptune.training.rows.segments import checkpoint_contexts

_GAINS = ("ia3_l", "boft_s", "lora_magnitude_vector")  # of IA3, BOFT and DoRA, as peft calls them


def as_its_base_is_stored(recipe: Recipe) -> Recipe:
    """The recipe with what its base is stored in as `backbone.quantize`.

    Raises: BackboneError as `as_stored`; RecipeError if the recipe does not go with a quantised base.
    """
    if not isinstance(recipe.task, Chat):  # others refuse such a base
        return recipe
    backbone = as_stored(recipe.backbone)
    if backbone == recipe.backbone:
        return recipe
    fields = {name: getattr(recipe, name) for name in Recipe.model_fields}
    try:
        return Recipe.model_validate({**fields, "backbone": backbone})
    except ValidationError as error:
        why = explain(error, Recipe).removeprefix("recipe: ")
        raise RecipeError(f"{backbone.model} is stored in {backbone.quantize}: {why}") from None


def resolved(recipe: Recipe, accelerator: Accelerator) -> Recipe:
    """The recipe with "auto" replaced by its value on this machine, so that it means the same elsewhere; and how its base is stored.

    Weights that are trained themselves are float32: 16 bits would lose small updates. A model that learns from its own answers has
    no dropout of its own, and is not watched for a collapse, as that shows in their rewards.
    """
    recipe = as_its_base_is_stored(recipe)
    if recipe.task.learns_from_answers:
        still = recipe.train.model_copy(update={"dropout": recipe.train.dropout or 0.0, "rollbacks": 0})
        recipe = recipe.model_copy(update={"train": still})
    if recipe.train.batch_size < accelerator.num_processes:
        raise RecipeError(
            f"train.batch_size is {recipe.train.batch_size}, fewer examples than the {accelerator.num_processes} processes"
        )
    check_optimizer(recipe.train, accelerator.device)
    check_offloading(recipe.train, accelerator.device)
    check_noise(recipe)
    check_average(recipe)
    if recipe.backbone.stream and accelerator.num_processes > 1:
        raise RecipeError(
            "backbone.stream is for one process: leave out accelerate launch, or backbone.stream"
        )
    method = recipe.method
    trains_itself = not isinstance(method, PeftMethod) or method.copies
    dtype = torch.float32 if trains_itself else _dtype(recipe, accelerator.device)
    if accelerator.num_processes > 1:
        (dtype,) = broadcast_object_list([dtype])  # "auto" is measured: one process decides for all
    if trains_itself and recipe.backbone.dtype in ("bfloat16", "float16"):
        raise RecipeError(
            f"backbone.dtype {recipe.backbone.dtype!r} cannot be trained by {type(recipe.method).__name__}: use float32"
        )
    backbone = recipe.backbone.model_copy(update={"dtype": str(dtype).removeprefix("torch.")})
    return recipe.model_copy(update={"backbone": backbone})


def _dtype(recipe: Recipe, device: torch.device) -> torch.dtype:
    """The type of the backbone's weights."""
    asked = recipe.backbone.dtype
    if asked == "auto" and not recipe.task.takes_rounded_weights:
        return torch.float32
    dtype = training_dtype(recipe.backbone, device)
    if dtype != torch.float16 or kind_of_recipe(recipe) is DECODER:
        return dtype
    if asked == "float16":
        raise RecipeError(
            "backbone.dtype 'float16' is for chat and translation by causal models: use float32"
        )
    return torch.float32


def how_served(recipe: Recipe) -> str | None:
    """A sentence about serving what the recipe trains, to be said before it trains; None: it is served as it is saved."""
    method = recipe.method
    if not isinstance(method, PeftMethod) or method.beside(chat=kind_of_recipe(recipe) is DECODER):
        return None
    name = "Lora with dora or target_parameters" if isinstance(method, Lora) else type(method).__name__
    if not method.mergeable:
        return f"adapters of {name} are for PEFT: ptune evaluates them, and neither merges nor serves them"
    if kind_of_recipe(recipe) is SEQ2SEQ:
        return f"adapters of {name} on an encoder-decoder are for PEFT: ptune merges none there"
    return f"adapters of {name} are served merged: ptune export RUN --merge"


def _check_invocation(recipe: Recipe) -> None:
    """Raises: RecipeError where a method with an invocation cannot be trained."""
    if not (isinstance(recipe.method, Lora) and recipe.method.invocation):
        return
    if kind_of_recipe(recipe) is not DECODER:
        raise RecipeError("method.invocation is for chat and translation by causal models: leave it out")
    if recipe.train.gradient_checkpointing:
        raise RecipeError(
            "train.gradient_checkpointing: layers that are computed again are not told where method.invocation is: leave one of"
            " them out"
        )


def checkpoint_layers(backbone: PreTrainedModel) -> None:
    """Has the layers compute their activations again for the gradient."""
    # transformers renamed the method; version 6 is to have the new name alone
    name = "activation" if hasattr(backbone, "activation_checkpointing_enable") else "gradient"
    enable = getattr(backbone, f"{name}_checkpointing_enable")
    enable({"use_reentrant": False, "context_fn": checkpoint_contexts})


def applied(
    recipe: Recipe, backbone: PreTrainedModel, new_tokens: Sequence[int] = (), head: Sequence[str] = ()
) -> nn.Module:
    """The backbone, prepared for training by the recipe's method.

    new_tokens: ids of the recipe's new tokens; head: names of the modules that are not pretrained.
    """
    _check_invocation(recipe)
    if recipe.train.dropout is not None:
        set_dropout(backbone, recipe.train.dropout)
    if recipe.train.gradient_checkpointing:
        checkpoint_layers(backbone)
    if recipe.train.activation_offloading:
        offload_inputs(backbone)
    torch.manual_seed(recipe.train.seed)  # initialises the adapter
    with shapes_alone(streams(recipe.method)):
        model = recipe.method.apply(backbone, new_tokens, head)
    if recipe.train.neftune_alpha is not None:
        with_noise(backbone, recipe.train.neftune_alpha)
    if recipe.train.fast:
        with_gated_products(with_lora_products(model))
    if recipe.train.tiled_mlp is not None:
        tile_feed_forwards(backbone, recipe.train.tiled_mlp)  # after all that replaces a layer's `forward`
    if recipe.backbone.stream:
        beside_activations(model, backbone.device)
    return model


def prepared(
    accelerator: Accelerator, model: nn.Module, recipe: Recipe, head: Sequence[str] = ()
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimiser as the accelerator runs them. A streamed model is where it should be, and is not moved."""
    optimizer = optimizer_for(model, recipe.train, head)
    placed = [False if recipe.backbone.stream else None, None]  # None: as accelerate thinks right
    both: tuple[nn.Module, torch.optim.Optimizer] = accelerator.prepare(
        model, optimizer, device_placement=placed
    )
    return both


def check_optimizer(train: Train, device: torch.device) -> None:
    """Raises: RecipeError where the optimiser does not run on this device."""
    if OPTIMIZERS[train.optimizer].paged and device.type != "cuda":
        raise RecipeError(
            f"train.optimizer {train.optimizer!r} moves its state between a GPU and main memory, and there is no GPU here:"
            f" use {train.optimizer.removeprefix('paged_')}"
        )


def check_offloading(train: Train, device: torch.device) -> None:
    """Raises: RecipeError where the inputs of layers are in main memory anyway."""
    if train.activation_offloading and device.type != "cuda":
        raise RecipeError(
            "train.activation_offloading moves the inputs of layers from a GPU to main memory, and there is no GPU here:"
            " leave it out"
        )


def optimizer_for(model: nn.Module, train: Train, head: Sequence[str] = ()) -> torch.optim.Optimizer:
    """The recipe's optimiser; weight decay excludes vectors (norms, biases), and gains, which change nothing at 1.

    head: names of the modules that `train.head_lr` is for. A group's `lr_factor` is its share of the learning rate.
    With `train.lora_plus_ratio` factors B have groups of their own.
    Raises: RecipeError if there is no such module, or the optimiser cannot train one of the weights.

    Source: LoRA+ (Hayou et al. 2024, https://arxiv.org/abs/2402.12354).
    """
    if train.head_lr is not None and not head:
        raise RecipeError("train.head_lr: this model has no head that is trained anew; set train.lr alone")
    row, weights = OPTIMIZERS[train.optimizer], trained(model)
    if row.matrices_alone:
        _check_matrices(train.optimizer, weights)
    own = () if train.head_lr is None else tuple(f".{module}." for module in head)
    of_head, up = (train.head_lr or train.lr) / train.lr, train.lora_plus_ratio or 1.0

    def factor(name: str) -> float:
        return (of_head if any(module in f".{name}" for module in own) else 1.0) * (
            up if _is_b(name) else 1.0
        )

    factors = {name: factor(name) for name, _ in weights}
    groups = [
        {
            "params": [p for name, p in weights if factors[name] == lr_factor and _decays(name, p) == decays],
            "weight_decay": train.weight_decay if decays else 0.0,
            "lr_factor": lr_factor,
        }
        for lr_factor in dict.fromkeys(factors.values())
        for decays in (True, False)
    ]
    made: torch.optim.Optimizer = imported(row.made_by)(
        [group for group in groups if group["params"]],
        lr=train.lr,
        **given(train.optimizer, train.betas, train.eps),
    )
    return made


def _decays(name: str, weight: nn.Parameter) -> bool:
    """Whether weight decay shrinks it. A gain is stored as a matrix: [out, 1], of convolutions [1, out, 1, 1]."""
    return weight.ndim >= 2 and not any(part in _GAINS for part in name.split("."))


def _is_b(name: str) -> bool:
    """Whether a weight is the second factor of a LoRA update, B of y = x A^T B^T."""
    return any(part in ("lora_B", "lora_embedding_B") for part in name.split("."))


def _check_matrices(optimizer: str, weights: Sequence[tuple[str, nn.Parameter]]) -> None:
    others = [name for name, parameter in weights if parameter.ndim != 2]
    if others:
        raise RecipeError(
            f"train.optimizer {optimizer!r} trains matrices alone, and {len(others)} of the trained weights are none"
            f" ({others[0]} …): use method Lora, or adamw"
        )
