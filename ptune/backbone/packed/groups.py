"""Weights that are integers or small floats, times scales that groups of them share."""

from __future__ import annotations

import torch
from torch import Tensor


def in_groups(
    values: Tensor, scale: Tensor, zero: Tensor | None = None, index: Tensor | None = None
) -> Tensor:
    """scale * (value - zero) in float32, for values [out, in].

    scale, zero: [out, groups], of groups that follow each other along a row. index [in]: the group of each column, where
    they do not. A difference of two such integers is exact in float32, and the product is rounded once: not at all where the
    scale has 16 bits.
    """
    found, scale = values.to(torch.float32), scale.to(torch.float32)
    zero = None if zero is None else zero.to(torch.float32)
    if index is not None:
        index = index.long()
        if zero is not None:
            found.sub_(zero[:, index])
        return found.mul_(scale[:, index])
    cut = found.view(found.shape[0], scale.shape[1], -1)
    if zero is not None:
        cut.sub_(zero[..., None])
    cut.mul_(scale[..., None])
    return found


def in_blocks(values: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """scale * value in float32, for values [..., out, in] and a scale for each block of rows and columns.

    scale: [..., blocks of rows, blocks of columns]; the last blocks may be cut off.
    """
    found, rows = values.to(torch.float32), scale.to(torch.float32).repeat_interleave(block[0], -2)
    rows, whole = rows[..., : found.shape[-2], :], found.shape[-1] // block[1]
    found[..., : whole * block[1]].unflatten(-1, (whole, block[1])).mul_(rows[..., :whole, None])
    if whole < rows.shape[-1]:
        found[..., whole * block[1] :].mul_(rows[..., whole:])
    return found
