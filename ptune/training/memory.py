"""Out of memory, in the words of the recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ptune.errors import PtuneError
from ptune.methods.lora import Lora
from ptune.recipe import Recipe


@contextlib.contextmanager
def memory_errors(recipe: Recipe) -> Iterator[None]:
    """Turns what PyTorch raises for want of memory into the recipe's fields that would need less.

    Raises: PtuneError.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise PtuneError(f"out of memory: {_less(recipe)}") from None


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """On the CPU PyTorch raises a bare RuntimeError, known by its words alone."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator: can't allocate" in str(error)


def _less(recipe: Recipe) -> str:
    ways = [
        f"lower train.micro_batch_tokens (is {recipe.train.micro_batch_tokens})",
        f"lower task.max_length (is {recipe.task.max_length})",
    ]
    if not recipe.train.gradient_checkpointing:
        ways.append("set train.gradient_checkpointing to true")
    if recipe.backbone.quantize != "nf4" and isinstance(recipe.method, Lora):
        ways.append("set backbone.quantize to nf4")
    return ", or ".join(ways)
