"""MXFP4 as in gpt-oss: the experts' weights in floats of 4 bits (e2m1), 32 of them with one power of two.

A byte holds two values, the first in its low half. Blocks [experts, out, in / 32, 16] and scales [experts, out, in / 32] stand for
a weight that gpt-oss multiplies turned round, [experts, in, out].

Sources: OCP Microscaling Formats (MX) 1.0, section 5.3; transformers' `convert_moe_packed_tensors`,
https://github.com/huggingface/transformers/blob/main/src/transformers/integrations/mxfp4.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptune.backbone.packed.layout import Layout, Part, Parts, Shape

BLOCK = 32
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_MIDDLE = 127  # the exponent of 1


@dataclass(frozen=True)
class Mxfp4:
    """As `Layout`, for weights [experts, in, out]."""

    def shape(self, parts: Parts) -> Shape:
        experts, out, blocks = parts["scales"].shape
        return experts, blocks * BLOCK, out

    def parts(self, shape: Shape) -> dict[str, Part]:
        experts, inner, out = shape
        scales = (experts, out, inner // BLOCK)
        return {
            "blocks": Part((*scales, BLOCK // 2), (torch.uint8,)),
            "scales": Part(scales, (torch.uint8,)),
        }

    def checked(self, parts: Parts, shape: Shape) -> Parts:
        return parts

    def unpack(self, parts: Parts, shape: Shape) -> Tensor:
        return values(parts["blocks"], parts["scales"]).transpose(1, 2).contiguous()


def values(blocks: Tensor, scales: Tensor) -> Tensor:
    """[..., out, in / 32, 16] and [..., out, in / 32] -> float32 [..., out, in]"""
    known = torch.tensor(VALUES, device=blocks.device)
    pairs = torch.stack([known[(blocks & 15).long()], known[(blocks >> 4).long()]], -1)
    exponent = scales.to(torch.int32) - _MIDDLE
    return torch.ldexp(pairs.flatten(-2), exponent[..., None]).flatten(-2)


def layouts(settings: Mapping[str, Any]) -> Callable[[str], Layout]:
    """The layout of each weight, by name."""
    return lambda _name: Mxfp4()
