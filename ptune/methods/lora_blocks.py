"""LoRA whose update int4 holds as it is: the same for all 32 inputs that share a scale and an offset.

Int4 writes a weight as scale * (q - zero) + offset, in blocks of 32 inputs (ptune.export.blocks). An update that is one number
in a block moves its offset and none of its codes, so merging rounds nothing away: round(W + s B A) = round(W) + s B A. For that,
A has one number for each block, repeated 32 times. It stays a plain LoRA, which peft reads and which is served unmerged, too.

Source: QA-LoRA (Xu et al. 2023, https://arxiv.org/abs/2309.14717), which sums its inputs over a group: the same product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

BLOCK = 32


def begin_in_blocks(model: nn.Module) -> None:
    """Sets the first factors of a PeftModel to one number for each block, and has their gradients stay so."""
    for factor in _first_factors(model):
        factor.register_hook(_means)
    repeat_in_blocks(model)


def repeat_in_blocks(model: nn.Module) -> None:
    """Repeats each block's first number, in place: where an optimiser rounds alike numbers differently, they are alike again."""
    import torch

    with torch.no_grad():
        for factor in _first_factors(model):
            if not factor.is_meta:
                factor.copy_(torch.cat([part[:, :1].expand_as(part) for part in factor.split(BLOCK, 1)], 1))


def _means(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient [r, in], with the mean of each block in its place."""
    import torch

    return torch.cat([part.mean(1, keepdim=True).expand_as(part) for part in gradient.split(BLOCK, 1)], 1)


def _first_factors(model: nn.Module) -> Iterator[nn.Parameter]:
    """A of every layer, [r, in]."""
    return (factor for name, factor in model.named_parameters() if ".lora_A." in name)
