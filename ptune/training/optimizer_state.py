"""An optimiser's state as tensors and numbers, which is what a checkpoint holds, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ptune.training.distributed import laid_out_as

Numbers = dict[str, dict[str, float]]  # by index of the parameter and key


def entries_of(held: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Index of the parameter, key and value of everything in a `state_dict`. bitsandbytes nests some one level deeper."""
    for index, entry in held["state"].items():
        for key, value in entry.items():
            inner = value if isinstance(value, dict) else {key: value}
            yield from ((str(index), own, one) for own, one in inner.items())


def numbers_of(held: Mapping[str, Any]) -> Numbers:
    """The entries of a `state_dict` that are plain numbers."""
    numbers: Numbers = {}
    for index, key, value in entries_of(held):
        if not isinstance(value, torch.Tensor):
            numbers.setdefault(index, {})[key] = value
    return numbers


def restore(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    numbers: Numbers,
    groups: list[dict[str, Any]],
) -> None:
    """Loads a state. tensors: whole ones, by INDEX.KEY."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(entry) for index, entry in numbers.items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        like = parameters[int(index)]
        value = laid_out_as(like, tensor) if tensor.shape == like.shape else tensor  # a scalar: its step
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    _page(optimizer)


def _page(optimizer: torch.optim.Optimizer) -> None:
    """Moves the state of a paged optimiser into memory that can leave the GPU: bitsandbytes does so only where it starts."""
    own = getattr(optimizer, "optimizer", optimizer)  # without accelerate's wrapper
    if not getattr(own, "is_paged", False):
        return
    for parameter, entry in own.state.items():
        for key in ("state1", "state2"):
            if key in entry:
                entry[key] = own.get_state_buffer(parameter, dtype=entry[key].dtype).copy_(entry[key])
