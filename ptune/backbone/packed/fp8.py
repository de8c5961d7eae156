"""FP8 (e4m3) with a scale for each block of rows and columns, as DeepSeek and Qwen publish it; or one for the whole weight.

w = value * scale, computed in float32. Scales are floats, or powers of two in a byte (`scale_fmt: ue8m0`).

Sources: DeepSeek-AI 2024, https://arxiv.org/abs/2412.19437, section 3.3; transformers' `Fp8Dequantize`,
https://github.com/huggingface/transformers/blob/main/src/transformers/integrations/finegrained_fp8.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptune.backbone.packed.groups import in_blocks
from ptune.backbone.packed.layout import HALF, Layout, Part, Parts, Shape
from ptune.backbone.packed.settings import ORIGINAL, choice
from ptune.errors import BackboneError

TYPES = (torch.float8_e4m3fn, torch.uint8)  # uint8: as it is kept (`as_bytes`)
_MIDDLE = 127  # the exponent of 1


@dataclass(frozen=True)
class Fp8:
    """As `Layout`."""

    block: tuple[int, int] | None  # rows and columns; None: all

    def shape(self, parts: Parts) -> Shape:
        return tuple(parts["fp8"].shape)

    def parts(self, shape: Shape) -> dict[str, Part]:
        *experts, out, inner = shape
        if self.block is None:
            scales: Shape = (*experts, *((1, 1) if experts else ()))
        else:
            scales = (*experts, -(-out // self.block[0]), -(-inner // self.block[1]))
        return {"fp8": Part(shape, TYPES), "scale": Part(scales, (*HALF, torch.uint8, torch.float8_e8m0fnu))}

    def checked(self, parts: Parts, shape: Shape) -> Parts:
        return {"fp8": as_bytes(parts["fp8"]), "scale": parts["scale"]}

    def unpack(self, parts: Parts, shape: Shape) -> Tensor:
        values, scale = parts["fp8"].view(torch.float8_e4m3fn), parts["scale"]
        if scale.dtype == torch.uint8:
            scale = torch.exp2(scale.to(torch.float32) - _MIDDLE)
        if self.block is None:
            return values.to(torch.float32).mul_(scale.to(torch.float32))
        return in_blocks(values, scale, self.block)


def as_bytes(fp8: Tensor) -> Tensor:
    """The bytes of FP8 values, which nothing takes for floats that could be cast or trained."""
    return fp8.view(torch.uint8)


def layouts(settings: Mapping[str, Any]) -> Callable[[str], Layout]:
    """The layout of each layer, by name. Raises: BackboneError in half a sentence."""
    choice(settings, "fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
    block = settings.get("weight_block_size")
    if block is not None and not (
        isinstance(block, list | tuple)
        and len(block) == 2
        and all(isinstance(one, int) and one > 0 for one in block)
    ):
        raise BackboneError(f"was saved with weight_block_size {block!r}, which is no block; {ORIGINAL}")
    layout = Fp8(None if block is None else (block[0], block[1]))
    return lambda _name: layout
