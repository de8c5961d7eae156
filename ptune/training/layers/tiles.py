"""The feed-forward part of a layer in tiles of positions, so that its activations are never in memory for a whole row.

A feed-forward part computes each position by itself: widened, through an activation, narrowed again. What it keeps for its
gradient is several times as wide as its input. In tiles, it keeps its input; each tile is computed again when its gradient is
due. With gradient checkpointing that is a third time, beside one tile's activations instead of a row's.

Only training passes are tiled. Sums over more or fewer rows round differently, so losses agree to rounding, not to the bit.

Source: Arctic Long Sequence Training (Bekman et al. 2025, https://arxiv.org/abs/2506.13996).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from ptune.errors import RecipeError


def tile_feed_forwards(model: PreTrainedModel, positions: int) -> None:
    """Has each layer of `model` train its feed-forward part on so many positions at a time, in place.

    Each tile runs the `forward` that the part has by then: whatever else replaces one comes first.
    Raises: RecipeError that names the model if a layer has no such part, or it cannot be told.
    """
    parts = feed_forwards(model)
    if not parts:
        raise RecipeError(
            f"train.tiled_mlp: the layers of {type(model).__name__} have no feed-forward part that works position by"
            " position: leave it out"
        )
    for part in parts:
        part.forward = functools.partial(_in_tiles, part, part.forward, positions)


def feed_forwards(model: nn.Module) -> list[nn.Module]:
    """The feed-forward part of each layer. Empty if one layer has none, or several that may be it."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    found = [list(_of_layer(layer)) for layer in layers]
    return [part for parts in found for part in parts] if all(len(parts) == 1 for parts in found) else []


def _of_layer(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules of a layer that compute positions one by one, by the look of them."""
    for child in module.children():
        if _is_feed_forward(child):
            yield child
        else:
            yield from _of_layer(child)


def _is_feed_forward(module: nn.Module) -> bool:
    """Whether a module takes hidden states alone, and has two linear layers or more and no other weights.

    Attention takes positions or a mask besides; a router or experts have weights of their own.
    """
    (*takes,) = inspect.signature(module.forward).parameters.values()
    plain = len(takes) == 1 and takes[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    owners = [one for one in module.modules() if any(True for _ in one.parameters(recurse=False))]
    linear = all(isinstance(one, nn.Linear | Conv1D) for one in owners)
    return plain and len(owners) >= 2 and linear


def _in_tiles(
    part: nn.Module, run: Callable[[torch.Tensor], torch.Tensor], positions: int, x: torch.Tensor
) -> torch.Tensor:
    """In place of `run`, a feed-forward part's `forward`. x: [..., hidden]"""
    rows = x.reshape(1, -1, x.shape[-1])
    if not part.training or rows.shape[1] <= positions:
        return run(x)
    tiles = [checkpoint(run, tile, use_reentrant=False) for tile in rows.split(positions, dim=1)]
    return torch.cat(tiles, dim=1).view(*x.shape[:-1], -1)
