"""Several processes: what `accelerate launch` was asked for, and weights that are sharded over processes (FSDP2).

A sharded weight is a DTensor: each process holds a part of it. To read it whole, every process has to take part.
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
from ptune.progress import say

T = TypeVar("T")

_WORKS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)

# `accelerate launch` hands its user's configuration on in the environment. What would train otherwise than the recipe
# says, or has never been tried, is refused; what the recipe decides in its place is said.
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
    """The processes that were launched. Raises: RecipeError where the launch asks for what the loop does not do."""
    check_launch(recipe)
    accelerator = Accelerator(
        # accelerate would take any other device it finds; none has been tried
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
        # accelerate itself shards only on GPUs and would say nothing; the same code works on CPUs.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        accelerator.state.distributed_type = DistributedType.FSDP
    for variable, (usual, words) in _DECIDED.items():
        asked = os.environ.get(variable, usual)
        if asked != usual and accelerator.is_main_process:
            say(f"accelerate's {words.format(asked)}")
    return accelerator


def check_launch(recipe: Recipe) -> None:
    """Raises: RecipeError where the launch asks for what the loop does not do, or would do silently otherwise."""
    found = [words for variable, words in _REFUSED.items() if _asked(variable)]
    dynamo = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if dynamo.lower() != "no":
        found.append(f"dynamo_backend {dynamo}")
    if _asked("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            found.append("FSDP version 1: set fsdp_version: 2")
        if os.environ.get("FSDP_IGNORED_MODULES", "None") != "None":
            found.append("fsdp_ignored_modules")
        if recipe.backbone.quantize != "none":
            found.append(f"FSDP with backbone.quantize {recipe.backbone.quantize}: use ddp.yaml")
        if recipe.backbone.new_tokens:
            found.append(
                "FSDP with backbone.new_tokens: use ddp.yaml"
            )  # PEFT cannot read their rows back into shards
        found += [words for variable, words in _REFUSED_OF_FSDP.items() if _asked(variable)]
    if found:
        raise RecipeError(
            f"accelerate's configuration asks for what training does not support: {'; '.join(found)}. "
            "Files that work: recipes/accelerate (cpu, one_gpu, ddp, fsdp2, multi_node)"
        )


def sharded(model: nn.Module) -> bool:
    """Whether each process holds only a part of `model`, so that all of them are needed for a forward pass."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in one piece; every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def laid_out_as(like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A whole tensor, which every process has, spread over the processes as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    tensor = tensor.to(like.device, like.dtype)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def decided_by_one(accelerator: Accelerator, decide: Callable[[], T]) -> T:
    """What `decide` gives in the main process, in all of them. Raises: in all of them what it raises there."""
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
    """Processes that go on from different checkpoints would train different models.

    Raises: FormatError, in all of them, where they differ.
    """
    if accelerator.num_processes > 1:
        steps = gather_object([step])
        if len(set(steps)) > 1:
            found = ", ".join(map(str, steps))
            raise FormatError(
                f"the processes found different checkpoints (steps {found}): do all machines see the same run folder?"
            )
