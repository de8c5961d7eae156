"""AWQ in the layout of its `gemm` kernel: integers of 4 bits in groups along the input, with scales and zero points.

w = scale * (q - zero). A matrix is stored turned round, [in, out]; eight neighbours of a row share a word, in the order 0, 2, 4,
6, 1, 3, 5, 7.

Sources: Lin et al. 2023, https://arxiv.org/abs/2306.00978; AutoAWQ's `dequantize_gemm`,
https://github.com/casper-hansen/AutoAWQ/blob/main/awq/utils/packing_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptune.backbone.packed.bits import unpacked
from ptune.backbone.packed.groups import in_groups
from ptune.backbone.packed.layout import HALF, Layout, Part, Parts, Shape
from ptune.backbone.packed.settings import choice, number
from ptune.errors import BackboneError

BITS = 4
_IN_WORD = 8
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where in its word each of eight neighbours lies


@dataclass(frozen=True)
class Awq:
    """As `Layout`."""

    group: int  # inputs; -1: all

    def shape(self, parts: Parts) -> Shape:
        return parts["scales"].shape[1], parts["qweight"].shape[0]

    def parts(self, shape: Shape) -> dict[str, Part]:
        out, inner = shape
        group = inner if self.group == -1 else self.group
        if inner % group or out % _IN_WORD:
            raise BackboneError(
                f"has the shape {list(shape)}, which groups of {group} and words of {_IN_WORD} do not divide"
            )
        groups = inner // group
        return {
            "qweight": Part((inner, out // _IN_WORD), (torch.int32,)),
            "qzeros": Part((groups, out // _IN_WORD), (torch.int32,)),
            "scales": Part((groups, out), HALF),
        }

    def checked(self, parts: Parts, shape: Shape) -> Parts:
        return parts

    def unpack(self, parts: Parts, shape: Shape) -> Tensor:
        q, zero = (_in_order(parts[name], shape[0]).t() for name in ("qweight", "qzeros"))
        return in_groups(q.contiguous(), parts["scales"].t(), zero)


def _in_order(words: Tensor, count: int) -> Tensor:
    """Integers [..., count] of words [..., count / 8]."""
    places = torch.tensor(_PLACES, device=words.device)
    return unpacked(words, BITS, count).unflatten(-1, (-1, _IN_WORD))[..., places].flatten(-2)


def layouts(settings: Mapping[str, Any]) -> Callable[[str], Layout]:
    """The layout of each layer, by name. Raises: BackboneError in half a sentence."""
    choice(settings, "bits" if "bits" in settings else "w_bit", (BITS,))
    choice(settings, "version" if "version" in settings else "format", ("gemm",), "gemm")
    choice(settings, "zero_point", (True,), True)
    layout = Awq(number(settings, "group_size" if "group_size" in settings else "q_group_size"))
    return lambda _name: layout
