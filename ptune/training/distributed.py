"""Training in several processes: checks of `accelerate launch`, and weights sharded over processes (FSDP2).

A sharded weight is a DTensor: each process holds a part of it. Gathering it needs a call in every process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    broadcast_object_list,
    gather_object,
)
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ptune.config.recipe import Recipe
from ptune.errors import FormatError, PtuneError, RecipeError
from ptune.methods.lora import Lora
from ptune.methods.peft_method import PeftMethod
from ptune.progress import say

T = TypeVar("T")

_WORKS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)

# `accelerate launch` passes its configuration in the environment. Settings that contradict the recipe, or that were never
# tried, are refused; settings that the recipe overrides are reported.
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed (it steps, clips and accumulates by itself)",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config (tensor, context, sequence parallelism)",
}
_REFUSED_OF_FSDP = {
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing: set train.gradient_checkpointing instead",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "fsdp_cpu_ram_efficient_loading: each process reads and checks the weights",
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params",
}
_DECIDED = {
    "ACCELERATE_MIXED_PRECISION": ("no", "mixed precision {} is ignored: the recipe's backbone.dtype decides"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "1", "gradient_accumulation_steps {} is ignored: the recipe's batch_size and micro_batch_tokens decide",
    ),
}  # fmt: skip


def accelerator_for(recipe: Recipe, folder: Path, tracker: str | None) -> Accelerator:
    """The Accelerator of the launched processes. Raises: RecipeError if the launch asks for unsupported features."""
    check_launch(recipe)
    accelerator = Accelerator(
        # accelerate would use any other device that it finds; none has been tried
        cpu=not torch.cuda.is_available() or _asked("ACCELERATE_USE_CPU"),
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop accumulates itself
        log_with=tracker,
        project_dir=folder,
    )
    if accelerator.distributed_type not in _WORKS:
        raise RecipeError(
            f"training on {accelerator.distributed_type.value} has never been tried: use CPU or GPU"
        )
    if _asked("ACCELERATE_USE_FSDP") and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # accelerate shards only on GPUs and ignores this silently; the same code works on CPUs.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        accelerator.state.distributed_type = DistributedType.FSDP
    for variable, (usual, words) in _DECIDED.items():
        setting = os.environ.get(variable, usual)
        if setting != usual and accelerator.is_main_process:
            say(f"accelerate's {words.format(setting)}")
    return accelerator


def check_launch(recipe: Recipe) -> None:
    """Raises: RecipeError if the launch asks for features that the loop does not support or would silently ignore."""
    refused = [words for variable, words in _REFUSED.items() if _asked(variable)]
    dynamo = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if dynamo.lower() != "no":
        refused.append(f"dynamo_backend {dynamo}")
    if _asked("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            refused.append("FSDP version 1: set fsdp_version: 2")
        if os.environ.get("FSDP_IGNORED_MODULES", "None") != "None":
            refused.append("fsdp_ignored_modules")
        if recipe.backbone.quantize != "none":
            refused.append(f"FSDP with backbone.quantize {recipe.backbone.quantize}: use ddp.yaml")
        if recipe.backbone.stream:
            refused.append("FSDP with backbone.stream: leave out one of the two")
        if recipe.train.optimizer != "adamw":
            refused.append(f"FSDP with train.optimizer {recipe.train.optimizer}: use adamw")
        method = recipe.method
        if isinstance(method, PeftMethod) and not (isinstance(method, Lora) and method.only_factors):
            # Not tried; what hooks gradients or keeps a memory of its own needs whole parameters.
            refused.append(
                f"FSDP with {type(method).__name__} and these fields: use ddp.yaml, or plain Lora, FreezeExceptLast or Full"
            )
        if recipe.backbone.new_tokens:
            # PEFT cannot read their rows back into shards.
            refused.append("FSDP with backbone.new_tokens: use ddp.yaml")
        refused += [words for variable, words in _REFUSED_OF_FSDP.items() if _asked(variable)]
    if refused:
        raise RecipeError(
            f"accelerate's configuration asks for features that training does not support: {'; '.join(refused)}. "
            "Files that work: recipes/accelerate (cpu, one_gpu, ddp, fsdp2, multi_node)"
        )


def sharded(model: nn.Module) -> bool:
    """Whether each process holds only a part of `model`, so that a forward pass needs all of them."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor; if it is sharded, every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of the tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def laid_out_as(like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, which is whole in every process, sharded like `like`."""
    if not isinstance(like, DTensor):
        return tensor
    tensor = tensor.to(like.device, like.dtype)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def decided_by_one(accelerator: Accelerator, decide: Callable[[], T]) -> T:
    """The result of `decide` in the main process, returned in all processes. Raises: its PtuneError, in all of them."""
    if accelerator.num_processes == 1:
        return decide()
    outcome: list[T | PtuneError | None] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [decide()]
        except PtuneError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], PtuneError):
        raise outcome[0]
    return cast(T, outcome[0])


def check_same_step(accelerator: Accelerator, step: int) -> None:
    """Checks that all processes resume from the same step; otherwise they would train different models.

    Raises: FormatError, in all processes, if the steps differ.
    """
    if accelerator.num_processes > 1:
        steps = gather_object([step])
        if len(set(steps)) > 1:
            raise FormatError(
                f"the processes found different checkpoints (steps {', '.join(map(str, steps))}): do all machines see "
                "the same run folder?"
            )
