"""Turns out-of-memory errors into the options that would help."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ptune.config.recipe import Recipe
from ptune.errors import PtuneError
from ptune.training.memory.remedies import SAVINGS, options


@contextlib.contextmanager
def memory_errors(recipe: Recipe) -> Iterator[None]:
    """Turns PyTorch's out-of-memory errors into a PtuneError that names options which need less memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise PtuneError(f"out of memory: {_less(recipe)}") from None


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory ran out. On the CPU PyTorch raises a bare RuntimeError, recognised only by its message."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator: can't allocate" in str(error)


def _less(recipe: Recipe) -> str:
    on_card = torch.cuda.is_available()
    cheaper = (saving.notch(recipe) for saving in SAVINGS if on_card or not saving.of_a_card)
    ways = [" ".join(options(recipe, one)) for one in cheaper if one is not None]
    return f"train with {', or '.join(ways)}" if ways else "take a smaller backbone.model"
