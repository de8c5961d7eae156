"""Keeps the inputs of checkpointed layers in main memory instead of on the card.

Gradient checkpointing keeps one tensor for each layer until the layer is computed again: its input, [1, tokens, hidden]. Here
that is copied into pinned memory before the layer runs, and copied back when its gradient is due. Both copies stand in the
stream that computes, so the program waits for neither, and neither can overtake the computation. Numbers are the same bits.

This has not been run on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class Away:
    """A tensor of a card that lies in main memory."""

    kept: torch.Tensor
    device: torch.device


def offload_inputs(model: nn.Module) -> None:
    """Has the checkpointed layers of a transformers model keep their inputs in main memory, in place."""
    blocks = _Blocks()
    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if checkpoint is not None:
            module._gradient_checkpointing_func = functools.partial(_inputs_away, blocks, checkpoint)


def block_bytes(size: int) -> int:
    """The pinned memory that torch takes for a tensor of `size` bytes: a power of two."""
    return 1 << max(0, size - 1).bit_length()


class _Blocks:
    """Pinned memory. torch keeps what it has once taken, by size; so all blocks have the size of the largest so far,
    and shorter rows use those of longer ones."""

    def __init__(self) -> None:
        self._bytes = 0

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Memory for `tensor`, which is contiguous."""
        if tensor.device.type != "cuda":
            return torch.empty_like(tensor, device="cpu")
        self._bytes = max(self._bytes, block_bytes(tensor.nbytes))
        block = torch.empty(self._bytes, dtype=torch.uint8, pin_memory=True)
        return block[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)


def _inputs_away(blocks: _Blocks, checkpoint: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """In place of a layer's checkpoint function. Within it, the checkpoint's own hooks see what the layer saves."""
    with saved_tensors_hooks(functools.partial(_sent, blocks), _brought):
        return checkpoint(*arguments, **named)


def _sent(blocks: _Blocks, tensor: torch.Tensor) -> Away | torch.Tensor:
    """Sends a layer's input away; what has no gradient (positions, masks) is shared by the layers and stays."""
    if not (tensor.requires_grad and tensor.is_contiguous()):
        return tensor.detach()
    return send(blocks, tensor.detach())


def _brought(kept: Away | torch.Tensor) -> torch.Tensor:
    return bring(kept) if isinstance(kept, Away) else kept


def send(blocks: _Blocks, tensor: torch.Tensor) -> Away:
    """Copies a tensor to main memory."""
    return Away(blocks.like(tensor).copy_(tensor, non_blocking=True), tensor.device)


def bring(away: Away) -> torch.Tensor:
    """Copies it back."""
    return away.kept.to(away.device, non_blocking=True)
