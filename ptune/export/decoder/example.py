"""Example arguments of a decoder's step, with which it is traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ptune.formats.signature import Signature

DYNAMIC = torch.export.Dim.DYNAMIC


def example(signature: Signature) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Example arguments of `Step.forward`, all sizes different, and their dynamic axes."""
    groups, tokens, batch, seq, rows, wanted, rank, capacity = 2, 6, 3, 4, 7, 5, 8, 32

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    long, short = torch.int64, torch.int32
    axes = () if signature.axes == 1 else (signature.axes,)
    past = [
        zeros(batch, layer.kv_heads, capacity, dim)
        for layer in signature.cache
        for dim in (layer.key_dim, layer.value_dim)
    ]
    states, state_axes = _states(signature, groups * tokens, batch, rows)
    factors = [
        zeros(groups, *shape)
        for socket in signature.sockets
        for shape in ((socket.in_features, rank), (rank, socket.out_features))
    ]
    of_ends, end_axes = _of_ends(signature, groups, tokens, rank)
    arguments = (
        zeros(groups, tokens, dtype=long),  # input_ids
        zeros(*axes, groups, tokens, dtype=long),  # position_ids
        zeros(batch, seq, dtype=long),  # pad_indices
        zeros(groups * tokens, dtype=long),  # unpad_indices
        zeros(batch, dtype=short),  # seqlens_k
        zeros(batch, dtype=short),  # query_seqlens
        zeros(dtype=short),  # capacity
        zeros(wanted, dtype=long),  # logits_indices
        zeros(groups, tokens, rank),  # lora_mask
        states,
        past,
        factors,
        of_ends,
    )
    two, one = {0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC}
    placed = {at + len(axes): axis for at, axis in two.items()}
    dynamic = (two, placed, two, one, one, one, None, one, {**two, 2: DYNAMIC})
    factor_axes = [{0: DYNAMIC, axis: DYNAMIC} for _ in signature.sockets for axis in (2, 1)]
    return arguments, (*dynamic, state_axes, [{0: DYNAMIC, 2: DYNAMIC}] * len(past), factor_axes, end_axes)


def _states(
    signature: Signature, cells: int, batch: int, rows: int
) -> tuple[list[Tensor], list[dict[int, Any]]]:
    """`STATE_INPUTS` and the states of a model that keeps some, with their dynamic axes. cells: flat tokens."""
    if not signature.states:
        return [], []
    sizes = ((batch, rows), (cells,), (batch,))
    inputs = [torch.zeros(size, dtype=torch.int64) for size in sizes]
    states = [torch.zeros(batch, *state.shape) for state in signature.states]
    return [*inputs, *states], [{0: DYNAMIC, 1: DYNAMIC}, *[{0: DYNAMIC}] * (2 + len(states))]


def _of_ends(
    signature: Signature, groups: int, tokens: int, rank: int
) -> tuple[list[Tensor], list[dict[int, Any]]]:
    """The inputs of `Ends`, with their dynamic axes."""
    of_ends: list[Tensor] = []
    end_axes: list[dict[int, Any]] = []
    if (ends := signature.ends) is not None and ends.own_columns is not None:
        of_ends.append(torch.zeros(groups, ends.width, 7))
        end_axes.append({0: DYNAMIC, 2: DYNAMIC})
    for size in signature.gain_sizes().values():
        of_ends.append(torch.zeros(groups, 1, size))
        end_axes.append({0: DYNAMIC})
    if ends is not None and ends.step_inputs:
        of_ends += [torch.zeros(groups, tokens, 1, dtype=torch.bool), torch.zeros(groups, tokens, ends.width)]
        end_axes += [{0: DYNAMIC, 1: DYNAMIC}] * 2
    if ends is not None and ends.has_biases:
        of_ends.append(torch.zeros(groups, tokens, rank))
        end_axes.append({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC})
    if ends is not None and ends.has_gains:
        of_ends.append(torch.zeros(groups, tokens, 1))
        end_axes.append({0: DYNAMIC, 1: DYNAMIC})
    return of_ends, end_axes
